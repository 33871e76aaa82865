"""Compilation of CPU kernels by numba, the only module that imports numba directly.

The import takes a second. Modules of kernels are therefore imported only where and when a kernel is run. A
kernel is compiled at its first call, and the result is cached beside its module. If that folder cannot be
written, numba caches in the user's cache folder; if that fails too, every process compiles anew.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Kernel = TypeVar("Kernel", bound=Callable[..., object])


def compile_kernel(function: Kernel) -> Kernel:
    """Compiles a function with numba at its first call, without Python's global lock and with exact arithmetic.

    The functions that it calls must be in the same module: numba's cache does not notice a change elsewhere.

    Args:
        function: The kernel, in the part of Python that numba supports.
    """
    return _compiled(function, False)


def compile_reassociating_kernel(function: Kernel) -> Kernel:
    """Compiles a function as `compile_kernel` does, but lets sums be reordered for speed, as in torch's own kernels.

    Args:
        function: The kernel, in the part of Python that numba supports.
    """
    return _compiled(function, {"reassoc", "contract"})


def _compiled(function: Kernel, fastmath: bool | set[str]) -> Kernel:
    try:
        return cast(Kernel, numba.njit(cache=True, nogil=True, fastmath=fastmath)(function))
    except RuntimeError:  # numba finds no folder to cache in
        return cast(Kernel, numba.njit(nogil=True, fastmath=fastmath)(function))


def frozen(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the same pixels as a plain read-only array.

    Memory maps are read-only already. Since numba compiles once per argument type, one type for both means
    one compilation.

    Args:
        array: Pixels of any shape, uint8, as an array or a memory map; they are not copied.
    """
    view = np.asarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view
