"""Runs that the current parameters ask for: those in a search's journal, and further ones."""

from collections.abc import Iterable, Mapping

from pipeline.config import Params
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import CONFIRMATION, CONTROL, CONTROL_STUDY, METHOD, TRIAL, TrialRecord
from pipeline.tune.run_counts import control_seeds, max_trials
from pipeline.tune.selection.candidates import choice_rule, select_candidates
from pipeline.tune.selection.confirm import FIRST_SEED, confirmation_runs
from pipeline.tune.space import SearchSpace


def surplus_runs(trials: Mapping[str, TrialRecord], params: Params, space: SearchSpace) -> list[TrialRecord]:
    """Returns the runs of a search for which the current parameters cannot ask.

    They come from an earlier session with a larger budget or more seeds. Their epochs are spent nevertheless.

    Args:
        trials: All runs of the search by their ids.
        params: All parameters.
        space: The search space.
    """
    most, seeds = max_trials(params, space), control_seeds(params, space)

    def is_surplus(record: TrialRecord) -> bool:
        if record.role == CONFIRMATION:
            of, number = trials.get(record.of or ""), (record.seed or 0) - params.base.seed - FIRST_SEED
            too_many = number > seeds.get(record.of or "", params.search.confirm.seeds)
            return too_many or (of is not None and is_surplus(of))
        return record.role == TRIAL and (record.number or 0) >= most

    return [record for record in trials.values() if is_surplus(record)]


class RequestedRuns:
    """Runs that the current parameters ask for; an earlier session of the search may have asked for more of each.

    Args:
        params: All parameters.
        space: The search space.
        journal: The search's journal.
        studies: Names of the studies.
    """

    def __init__(self, params: Params, space: SearchSpace, journal: Journal, studies: Iterable[str]) -> None:
        self._params, self._space, self._journal = params, space, journal
        self._studies, self._max_trials = tuple(studies), max_trials(params, space)

    def includes(self, record: TrialRecord) -> bool:
        """Returns whether the parameters ask for a trial of a study or a control; False for a confirmation."""
        if record.role == CONFIRMATION:
            return False
        if record.study is None:
            return record.id in self._space.controls
        return record.study in self._studies and (record.number or 0) < self._max_trials

    def trials(self) -> list[TrialRecord]:
        """Returns controls, and the first trials of every study, in this order."""
        records = [record for record in self._journal.trials.values() if self.includes(record)]
        order = {CONTROL: 0, METHOD: 1, CONTROL_STUDY: 2}
        return sorted(records, key=lambda r: (order[r.study or r.role], -1 if r.number is None else r.number))

    def new_controls(self) -> list[TrialRecord]:
        """Returns the controls that have not been started."""
        controls = self._space.controls.items()
        return [
            TrialRecord(name, None, dict(values), role=CONTROL)
            for name, values in controls
            if name not in self._journal.trials
        ]

    def control_runs(self) -> list[TrialRecord]:
        """Returns the runs of controls with further seeds."""
        runs = []
        for name, seeds in control_seeds(self._params, self._space).items():
            control = TrialRecord(name, None, dict(self._space.controls[name]), role=CONTROL)
            runs += confirmation_runs(control, seeds, base_seed=self._params.base.seed)
        return runs

    def candidate_runs(self) -> list[TrialRecord]:
        """Returns the runs of the best configurations with further seeds, by the results so far."""
        seeds, tried = self._params.search.confirm.seeds, self.trials()
        runs = []
        for study in self._studies:
            trials = [record for record in tried if record.study == study]
            for best in select_candidates(trials, choice_rule(self._params), self._journal.scores):
                runs += confirmation_runs(best, seeds, base_seed=self._params.base.seed)
        return runs

    def max_candidate_runs(self) -> int:
        """Returns the largest number of confirmations of the best configurations if no further trial starts."""
        confirm, tried = self._params.search.confirm, [record.study for record in self.trials()]
        return sum(min(confirm.top, tried.count(study)) * confirm.seeds for study in self._studies)
