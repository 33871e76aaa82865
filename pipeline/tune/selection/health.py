"""Health of a search: faults that its own records show, each with a remedy.

    edge_of_range       the best configuration lies at the end of a range towards which the others get better, too
    no_effect           the trials show no effect of a parameter, although there are enough of them
    tie                 configurations differ no more than equal ones do by chance of seeds and images
    control_ahead       a control is ahead of every trial, over the seeds that they share
    rungs               the order of trials at the rungs hardly predicts their order at the end
    validation_images   the error from the choice of validation images exceeds the differences of configurations
    still_improving     the networks gained accuracy in their last epoch, so that more epochs might change the result
    one_trial           the search tried one configuration of several

Each is an alarm only if the records show the fault, not if they merely fail to exclude it. At most one of
twenty searches without a fault is to have any alarm (`benchmarks/search_health.py`). A search that converges
ends with configurations that tie, so a tie is only a remark as long as the search's trials do differ. If there
are too few records to examine something, a finding says so.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.artifacts.search_result import ALARM, REMARK, UNKNOWN, Finding
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords
from pipeline.tune.dimension import Dimension
from pipeline.tune.journal.image_scores import ImageScores
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, CONTROL_STUDY, METHOD, VAL_ACCURACY, TrialRecord
from pipeline.tune.objectives.objectives import ACCURACY_ALONE, Objectives
from pipeline.tune.selection.findings import count_words
from pipeline.tune.selection.seed_table import SeedTable, seed_table
from pipeline.tune.selection.trial_effects import Edge, Sample, effect_p_value, examine_edge, make_sample
from pipeline.tune.space import SearchSpace

EDGE_SHARE, EDGE_LEVEL = 0.1, 0.05
"""Share of the range within which the best configuration is at its end; level, over all tests together, at
which the other trials show that it gets better there.
"""
EFFECT_TRIALS, NO_EFFECT = 40, 0.2
"""Number of trials at one time from which on a parameter is examined; p-value, over all tests of the parameter,
above which it is reported to have shown no effect. With three parameters, one that explains .35 of what the
others leave is reported in under two of a hundred searches of 40 trials.
"""
TIE_RATIO = 2.0
"""Ratio of the variance between configurations to that of equal ones, up to which they tie: at most half of
their variance is their own.
"""
AHEAD_LEVEL = 0.01
"""Level of the test whether a control is ahead, for all controls together."""
RUNG_TRIALS, RUNG_CORRELATION, RUNG_LEVEL = 8, 0.5, 0.1
"""Number of full trials from which on rungs are judged; rank correlation with the end below which a rung
predicts too little; one-sided level of this test.
"""
LAST_GAIN, LAST_GAIN_LEVEL = 0.01, 0.01
"""Gain of validation accuracy in the last epoch, as the mean over runs in full, from which on networks count as still
improving; one-sided level at which it must not be due to the choice of validation images. A learning rate that falls to
0 leaves little to the last epoch, so that training which is long enough stays well below.
"""


@dataclass(frozen=True)
class _Search:
    """Records that the findings are drawn from.

    Attributes:
        trials: Every record of the search.
        tried: The method's own trials.
        space: The search space.
        rungs: Epochs of the rungs that are examined.
        best: The chosen configuration; None if there is none yet.
        objectives: Objectives and constraints.
        scores: Scores of the validation images, by run.
        words: Wording of the first objective.
        samples: Trials by metric and time; empty ones are left out.
    """

    trials: Sequence[TrialRecord]
    tried: Sequence[TrialRecord]
    space: SearchSpace
    rungs: Sequence[int]
    best: TrialRecord | None
    objectives: Objectives
    scores: ImageScores
    words: MetricWords
    samples: Sequence[Sample] = field(default_factory=list)

    @property
    def metrics(self) -> list[str]:
        """First objective, and the metric that decides among equals if there is one."""
        return list(dict.fromkeys([self.first, self.then or self.first]))

    @property
    def first(self) -> str:
        return self.objectives.first

    @property
    def then(self) -> str | None:
        return self.objectives.then

    @property
    def categorical(self) -> dict[str, bool]:
        """True for each categorical dimension, by dotted path."""
        return {path: "choices" in dimension for path, dimension in self.space.dimensions.items()}

    @property
    def candidates(self) -> list[str]:
        """Confirmed trials of the method's study."""
        return self._confirmed(lambda trial: trial.study == METHOD)

    @property
    def controls(self) -> list[str]:
        """Confirmed controls of the space, and confirmed trials of the control study."""
        return self._confirmed(lambda trial: trial.control or trial.study == CONTROL_STUDY)

    def _confirmed(self, chosen: Callable[[TrialRecord], bool]) -> list[str]:
        """Returns the ids of the configurations with confirmations for which a condition is true."""
        again = {trial.of for trial in self.trials if trial.role == CONFIRMATION}
        return [trial.id for trial in self.trials if trial.id in again and chosen(trial)]

    def table(self, epoch: int | None = None) -> tuple[SeedTable | None, list[int]]:
        """Returns the table of confirmed configurations and controls, and its rows that are configurations."""
        candidates = self.candidates
        found = seed_table(self.trials, [*candidates, *self.controls], self.scores, epoch=epoch, metric=self.first)
        rows = [] if found is None else [row for row, name in enumerate(found.ids) if name in candidates]
        return found, rows


def examine_search(
    trials: Sequence[TrialRecord],
    space: SearchSpace,
    rung_epochs: Sequence[float],
    *,
    best: TrialRecord | None = None,
    objectives: Objectives = ACCURACY_ALONE,
    scores: ImageScores | None = None,
    words: MetricWords = ACCURACY_WORDS,
) -> list[Finding]:
    """Examines a search and returns its faults: alarms first, then remarks, then everything that could not be examined.

    Args:
        trials: Every record: controls, trials of every study, confirmations.
        space: The search space.
        rung_epochs: Epochs at which trials were compared. The median rule compares at every epoch; of its
            epochs, the products of the first with powers of two are examined.
        best: The chosen configuration; None if there is none yet.
        objectives: Objectives and constraints: the first objective, and the metric that decides among equals.
        scores: Scores of the validation images, by run; None if they were not stored.
        words: Wording of the first objective; differences below its margin count as none.
    """
    tried = [trial for trial in trials if trial.study == METHOD and trial.number is not None]
    rungs = _looked_at([int(rung) for rung in rung_epochs])
    search = _Search(trials, tried, space, rungs, best, objectives, scores or ImageScores(), words)
    samples = [make_sample(tried, space, metric, epoch) for metric in search.metrics for epoch in (*rungs[:1], None)]
    search = replace(search, samples=[sample for sample in samples if sample.trials])
    examined = (
        _one_trial,
        _edge,
        _no_effect,
        _tie,
        _control_ahead,
        _rungs,
        _validation_images,
        _still_improving,
    )
    found = [finding for examine in examined if (finding := examine(search)) is not None]
    return sorted(found, key=lambda finding: (ALARM, REMARK, UNKNOWN).index(finding.kind))


def _one_trial(search: _Search) -> Finding | None:
    if len(search.tried) != 1 or search.space.size() == 1:
        return None
    return Finding(
        "one_trial",
        "One trial is no search: no other configuration was tried.",
        "Raise search.budget.full_trainings or search.trials.",
    )


def _still_improving(search: _Search) -> Finding | None:
    ends = [
        (before, after, images)
        for trial in search.trials
        if trial.state == COMPLETE
        and math.isfinite(before := trial.metric(VAL_ACCURACY, trial.last_epoch - 1))
        and math.isfinite(after := trial.metric(VAL_ACCURACY))
        and (images := search.scores.at(trial.id, trial.last_epoch)) is not None
    ]
    if not ends:
        seen = "whether training was long enough (a run in full of two epochs is needed, image by image)"
        return Finding("still_improving", seen, kind=UNKNOWN)
    from scipy import stats  # imported here, so that commands that do not need it answer at once

    before, after = (float(np.mean([each[place] for each in ends])) for place in (0, 1))
    # An image counts for the gain only if it is wrong at one of the two epochs, which bounds the variance. Runs count
    # as one network, since they have the same validation images.
    error = math.sqrt((2 - before - after) / len(ends[0][2]))
    if after - before < max(LAST_GAIN, float(stats.norm.ppf(1 - LAST_GAIN_LEVEL)) * error):
        return None
    return Finding(
        "still_improving",
        f"The networks still improved at their last epoch: {VAL_ACCURACY} rose from {before:.4f} to {after:.4f} in it, "
        f"as the mean over {count_words(len(ends), 'run')} in full.",
        "train.epochs may be too small for a verdict; raise it.",
    )


def _looked_at(rungs: Sequence[int]) -> list[int]:
    """Returns the rungs to examine: of consecutive epochs, the products of the first with powers of two; else
    all.
    """
    if len(rungs) < 3 or list(rungs) != list(range(rungs[0], rungs[-1] + 1)):
        return list(rungs)
    return [rung for rung in rungs if rung % rungs[0] == 0 and (rung // rungs[0]).bit_count() == 1]


def _edge(search: _Search) -> Finding | None:
    best = search.best
    if best is None or search.space.values_outside(best.values) or not search.space.dimensions.keys() <= {*best.values}:
        return None
    looked: list[tuple[str, bool, Sample, Edge]] = []
    shares, steps = search.space.shares(best.values), search.space.steps()
    for (path, dimension), share in zip(search.space.dimensions.items(), shares, strict=True):
        upper = None if "choices" in dimension else _end(dimension, best.values[path], share)
        if upper is None or steps[path] == 2:  # of two values, either is at an end
            continue
        for sample in search.samples:
            edge = examine_edge(sample, path, search.categorical, upper=upper, without=best.id)
            looked += [] if edge is None else [(path, upper, sample, edge)]
    clear: dict[str, tuple[bool, Sample, Edge]] = {}
    for path, upper, sample, edge in sorted(looked, key=lambda each: each[3].p_value):
        if edge.rises and edge.p_value * len(looked) <= EDGE_LEVEL:
            clear.setdefault(path, (upper, sample, edge))
    if not clear:
        return None
    seen, widen = [], []
    for path, (upper, sample, edge) in clear.items():
        end, dimension = "high" if upper else "low", search.space.dimensions[path]
        limit = _short(dimension["high"] if upper else dimension["low"])
        seen.append(
            f"{path} of {best.id} is {_short(best.values[path])}, at the {end} end of its range ({limit}), and "
            f"{sample.metric} {sample.place} gets better towards it (rank correlation {edge.correlation:.2f} over "
            f"{edge.trials} other trials)"
        )
        widen.append(f"{path} {'above' if upper else 'below'} {limit}")
    return Finding("edge_of_range", f"{'; '.join(seen)}.", f"Widen the range of {', '.join(widen)} in the space.")


def _end(dimension: Dimension, value: Any, share: float) -> bool | None:
    """Returns True for a value at the upper end of its range, False for one at the lower end, and None for any other.

    Args:
        dimension: The dimension.
        value: The value.
        share: Its share of the way through the range, in [0, 1].
    """
    if value in (dimension["low"], dimension["high"]):
        return bool(value == dimension["high"])
    return None if EDGE_SHARE <= share <= 1 - EDGE_SHARE else share > 0.5


def _no_effect(search: _Search) -> Finding | None:
    most = max((len(sample.trials) for sample in search.samples), default=0)
    if most < EFFECT_TRIALS:
        seen = f"which parameters have an effect ({count_words(most, 'trial')}, {EFFECT_TRIALS} are needed)"
        return Finding("no_effect", seen, kind=UNKNOWN)
    without: list[str] = []
    examined: dict[str, None] = {}
    for path in search.space.dimensions:
        tests = [(effect_p_value(sample, path, search.categorical), sample) for sample in search.samples]
        known = [(p_value, sample) for p_value, sample in tests if p_value is not None]
        if max((len(sample.trials) for _, sample in known), default=0) < EFFECT_TRIALS:
            continue  # all trials have one value of it, or there are too many parameters for these trials
        examined |= dict.fromkeys(f"{sample.metric} {sample.place}" for _, sample in known)
        if min(p_value for p_value, _ in known) * len(known) > NO_EFFECT:
            without.append(path)
    if not without:
        return None
    everything = len(without) == len(search.space.dimensions) > 1
    them = "it" if len(without) == 1 else "them"
    names = "No parameter had an" if everything else f"{', '.join(without)} had no"
    seen = f"{names} effect that {most} trials could show: on {', '.join(examined)}."
    if everything:
        advice = "Widen the ranges, train longer, or take more validation images (split.val_fraction)."
    else:
        advice = f"Fix {them} in params.yaml and take {them} out of the space, or widen the range."
    return Finding("no_effect", seen, advice)


def _tie(search: _Search) -> Finding | None:
    table, rows = search.table()
    if table is None or len(rows) < 2:
        return Finding("tie", "whether configurations tie (two confirmed ones are needed)", kind=UNKNOWN)
    means = table.means[rows]
    seeds, images = table.seed_variance(), (table.mean_image_variance(rows) or 0.0) / 2
    ratio = _ratio(float(means.var(ddof=1)), seeds + images)
    if ratio > TIE_RATIO:
        return None
    of_trials, chose = _ratio_of_trials(search), search.then or "luck"
    seen = (
        f"The {len(rows)} confirmed configurations tie: their means of {search.first} over {table.seeds} seeds, "
        f"{means.min():.4f} to {means.max():.4f}, differ no more than those of equal ones may by chance"
    )
    if of_trials is None or of_trials > TIE_RATIO:
        return Finding("tie", f"{seen}, so that {chose} chose among them.", kind=REMARK)
    more = "more validation images (split.val_fraction)" if images > seeds else "more seeds (search.confirm.seeds)"
    if search.then is None:
        advice = f"Choose among equals by search.choose.then, or take {more}."
    else:
        advice = f"To have {search.words.label} choose, take {more}."
    seen = f"{seen}. The same holds for all trials, so that {chose} chose among them."
    return Finding("tie", seen, advice)


def _ratio(variance: float, of_equals: float) -> float:
    """Returns a variance over that of equal configurations; 0 if both are 0, inf if only the latter is."""
    return variance / of_equals if of_equals > 0 else 0.0 if variance == 0 else math.inf


def _ratio_of_trials(search: _Search) -> float | None:
    """Returns the variance of the objective over trials, one seed each, over that of equal ones.

    The confirmed runs show the variance of equal ones. The ratio is computed for all trials at the first rung,
    and for the trials that ran in full at their end, and the higher one is returned; None if neither is
    available.
    """
    found = []
    for epoch in (*search.rungs[:1], None):
        tried = [trial for trial in search.tried if epoch is not None or trial.state == COMPLETE]
        values = [value for trial in tried if math.isfinite(value := trial.metric(search.first, epoch))]
        table, rows = search.table(epoch)
        if table is not None and len(values) >= 3:
            images = (table.mean_image_variance(rows) or 0.0) / 2
            found.append(_ratio(float(np.var(values, ddof=1)), table.seeds * table.seed_variance() + images))
    return max(found, default=None)


def _control_ahead(search: _Search) -> Finding | None:
    table, candidates = search.table()
    controls = [] if table is None else [row for row in range(len(table.ids)) if row not in candidates]
    if table is None or not candidates or not controls or table.degrees_of_freedom < 2:
        seen = "whether a control is ahead (it and a configuration, confirmed with two further seeds, are needed)"
        return Finding("control_ahead", seen, kind=UNKNOWN)
    from scipy import stats  # imported here, so that commands that do not need it answer at once

    sign = search.words.sign
    best = max(candidates, key=lambda row: sign * float(table.means[row]))
    limit = float(stats.t.ppf(1 - AHEAD_LEVEL / len(controls), table.degrees_of_freedom))
    found = []
    for row in controls:
        ahead = sign * float(table.means[row] - table.means[best])
        error = math.sqrt(2 * table.seed_variance() + (table.image_variance(row, best) or 0.0))
        if error > 0 and ahead > limit * error:
            found.append((ahead, row))
    if not found:
        return None
    _, row = max(found)
    seen = (
        f"The control {table.ids[row]} is ahead of every trial: {search.first} {table.means[row]:.4f} over "
        f"{table.seeds} seeds, against {table.means[best]:.4f} of {table.ids[best]}, the best confirmed one, with the "
        "same seeds."
    )
    if any(path.startswith("regularizer.") for path in search.space.dimensions):
        advice = "Extend the space to lower weights, with which the regulariser does less harm, or try more trials."
    else:
        advice = "Extend the space to the control's own values, or try more trials."
    return Finding("control_ahead", seen, advice)


def _rungs(search: _Search) -> Finding | None:
    if not search.rungs:
        return None
    completed = [trial for trial in search.tried if trial.state == COMPLETE]
    weak: list[tuple[int, float, int]] = []
    judged = 0
    for rung in search.rungs:
        known = [found for metric in search.metrics if (found := rank_correlation(completed, metric, rung))]
        judged += bool(known)
        # A trial that is good by one metric alone goes on too. A rung is at fault only if no metric predicts the end.
        if known and all(_upper_limit(correlation, trials) < RUNG_CORRELATION for correlation, trials in known):
            weak.append((rung, *known[0]))
    if not judged:
        seen = (
            f"whether rungs predict the end ({count_words(len(completed), 'trial')} in full, {RUNG_TRIALS} are needed)"
        )
        return Finding("rungs", seen, kind=UNKNOWN)
    if not weak:
        return None
    said = ", ".join(f"{correlation:.2f} at epoch {rung}" for rung, correlation, _ in weak)
    seen = (
        f"Values at rungs predict the last epoch poorly: over {weak[0][2]} trials in full, the rank correlation of "
        f"{search.first} with its value at the last epoch is {said}."
    )
    advice = (
        f"Make search.scheduler.grace_period longer than {weak[-1][0]} epochs, or stop no trial early "
        "(search.scheduler.name: none)."
    )
    return Finding("rungs", seen, advice)


def rank_correlation(
    completed: Sequence[TrialRecord], metric: str, rung: int, least: int = RUNG_TRIALS
) -> tuple[float, int] | None:
    """Returns Spearman's rank correlation between a rung and the end.

    Args:
        completed: Trials that ran in full.
        metric: Metric by which they are compared.
        rung: Epoch of the rung.
        least: Fewest trials with both values.

    Returns:
        The correlation and the number of trials; None if these are too few or have equal values.
    """
    from scipy import stats  # as above

    pairs = [(trial.metric(metric, rung), trial.metric(metric)) for trial in completed]
    pairs = [pair for pair in pairs if all(map(math.isfinite, pair))]
    early, late = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if len(pairs) < least or len(set(early)) < 2 or len(set(late)) < 2:
        return None
    return float(stats.spearmanr(early, late).statistic), len(pairs)


def _upper_limit(correlation: float, trials: int) -> float:
    """Returns the one-sided upper limit of a rank correlation.

    It uses Fisher's transform with Spearman's variance, 1.06 / (n - 3) (Fieller, Hartley, Pearson 1957).
    """
    from scipy import stats  # as above

    bounded = min(max(correlation, -0.999999), 0.999999)
    return math.tanh(math.atanh(bounded) + float(stats.norm.ppf(1 - RUNG_LEVEL)) * math.sqrt(1.06 / (trials - 3)))


def _validation_images(search: _Search) -> Finding | None:
    table, rows = search.table()
    variance = None if table is None else table.mean_image_variance(rows)
    if table is None or table.scores is None or variance is None:
        seen = "whether validation images are enough (two confirmed configurations are needed, image by image)"
        return Finding("validation_images", seen, kind=UNKNOWN)
    spread, error = float(table.means[rows].std(ddof=1)), math.sqrt(variance)
    if error <= spread or 2 * error <= search.words.margin:
        return None
    seen = (
        f"{table.scores.shape[2]} validation images are too few for these differences: by the choice of images alone, "
        f"two equal configurations differ by {search.words.format_size(error, 2)} (a standard error), and the "
        f"{len(rows)} confirmed ones differ by only {search.words.format_size(spread, 2, unit=False)} (a standard "
        "deviation)."
    )
    advice = "Take more validation images (split.val_fraction)"
    return Finding("validation_images", seen, f"{advice}{'' if search.then else ', or choose by search.choose.then'}.")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
