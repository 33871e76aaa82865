"""Number of confirmations of one configuration that a worker trains together, by `search.confirm.seeds_per_worker`."""

from pipeline.config import Params


class StackSizes:
    """Number of confirmations that a worker trains together, by configuration.

    Args:
        params: All parameters.
        gpus: GPUs of one trial; may be a fraction.
        slots: Number of workers at the same time.
    """

    def __init__(self, params: Params, *, gpus: float, slots: int) -> None:
        self._asked, self._slots = params.search.confirm.seeds_per_worker, max(1, slots)
        # Trials with a share of a GPU fill it together, and a time that is measured beside others says little.
        self._measured = self._asked is None and gpus >= 1 and params.base.device != "cpu"
        self._found: dict[str, int] = {}

    @property
    def any(self) -> bool:
        """True if a worker may train several confirmations together."""
        return self._measured or (self._asked or 1) > 1

    def most(self, of: str, waiting: int) -> int:
        """Returns the largest number of confirmations of a configuration that one worker gets.

        Args:
            of: Id of the trial or control that they repeat.
            waiting: Number of confirmations that have no worker yet.
        """
        # Runs that have a GPU each are faster than a stack on one of the GPUs.
        most = -(-waiting // self._slots) if self._measured else self._asked or 1
        return min(most, self._found.get(of, most))

    def is_measured(self, of: str) -> bool:
        """Returns whether a worker measures if a stack is faster than single runs before it trains one.

        Args:
            of: As for `most`.
        """
        return self._measured and of not in self._found

    def limit(self, of: str, size: int) -> None:
        """Records the largest number of confirmations that are worth a stack, as a worker has found it.

        Args:
            of: As for `most`.
            size: The number; 1 for single runs.
        """
        self._found[of] = size
