"""numba, confined: how the kernels are compiled.

Importing this module imports numba, which takes a second: modules of kernels are therefore imported by who runs them,
when they do. A kernel is compiled when it is first called, and kept beside its module or, where that cannot be
written, in the user's cache; where neither can, it is compiled in every process.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Kernel = TypeVar("Kernel", bound=Callable[..., object])


def compile_kernel(function: Kernel) -> Kernel:
    """A function for numba to compile, without Python's lock and with exact arithmetic.

    What it calls must stand in its own module: numba does not notice a change elsewhere.
    """
    return _compiled(function, False)


def compile_reassociating_kernel(function: Kernel) -> Kernel:
    """As `compile_kernel`, but sums are taken in whatever order is fast on this processor, as torch's own are."""
    return _compiled(function, {"reassoc", "contract"})


def _compiled(function: Kernel, fastmath: bool | set[str]) -> Kernel:
    try:
        return cast(Kernel, numba.njit(cache=True, nogil=True, fastmath=fastmath)(function))
    except RuntimeError:  # nowhere to keep what was compiled
        return cast(Kernel, numba.njit(nogil=True, fastmath=fastmath)(function))


def frozen(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same pixels as a plain array that cannot be written, as memory maps are: one type, so one compilation."""
    view = np.asarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view
