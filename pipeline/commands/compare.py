"""`sar-search compare`: results of several searches on the same test images, as one family of comparisons."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from numpy.typing import ArrayLike

from pipeline.artifacts.evaluations import StoredEvaluation, read_evaluations
from pipeline.compared.compared_results import UNDECIDED, describe_outcome, seeds_of
from pipeline.config import Params, load_params
from pipeline.console.format import LEFT, RIGHT, format_level, format_table
from pipeline.errors import UserError, quote_name, single_item_command
from pipeline.score.comparison import PAIRED, clip_to_possible, compare_arms, compare_scores, has_too_few_seeds
from pipeline.score.family import Member, compare_family
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords, accuracy_words, words_of
from pipeline.workspace import Workspace

COLUMNS = {
    "search": LEFT,
    "seeds": RIGHT,
    "accuracy": RIGHT,
    "against": LEFT,
    "difference": RIGHT,
    "interval": RIGHT,
    "p (Holm)": RIGHT,
    "shown": LEFT,
}
SEARCH_COLUMNS = {"search": LEFT, "method": LEFT, "configuration": LEFT}


def describe_comparison(workspace: Workspace, searches: Sequence[str] = (), *, against: str = "") -> Iterator[str]:
    """Yields a table with a row for each search: its best configuration against its own control.

    All were evaluated on the same test images.

    Args:
        workspace: the checkout.
        searches: beginnings of the ids of searches. Empty for all that were evaluated on the images of the
            newest.
        against: beginning of the id of a search whose best configuration replaces the controls; empty for
            none.

    Raises:
        UserError: there is no evaluation, an id fits none or several, or the searches were evaluated on
            different images.
    """
    params = load_params(workspace.params)
    evaluations = read_evaluations(workspace.state)
    if not evaluations:
        raise UserError(
            "there is no evaluation in this checkout yet. `make repro` makes one for its search; to compare, run "
            "further searches."
        )
    chosen = list(dict.fromkeys(_named(prefix, evaluations).fingerprint for prefix in searches))
    reference = _named(against, evaluations) if against else None
    first = reference or _named(searches[0], evaluations) if reference or searches else evaluations[0]
    asked = [each for each in evaluations if not chosen or each.fingerprint in chosen]
    same = [each for each in asked if each.test == first.test]
    others = [each for each in asked if each.test != first.test]
    if others and chosen:
        raise UserError(
            f"{_ids(others)} and {first.id} were tested on different images (other data, another split, other "
            "folds), so their accuracies cannot be compared. Leave some out, or search again on the same data."
        )
    name = params.evaluate.metric
    hashes = [each.metric_hash for each in (first, *same) if each.metric_name == name]
    by_metric = [each for each in same if _has_metric(each, name, hashes[0] if hashes else "")]
    held = {each.fingerprint for each in by_metric}
    apart = [each for each in same if each.fingerprint not in held]
    if apart and (chosen or not by_metric or (reference is not None and reference.fingerprint not in held)):
        raise UserError(
            f"{_ids(apart)} cannot be compared by {name} (evaluate.metric): their evaluations used another metric or "
            "another version of its code, or have no interval. Set evaluate.metric to accuracy, by which all can be "
            f"compared, or evaluate again what is in models/ (`{single_item_command('evaluate')}`)."
        )
    compared = [each for each in by_metric if each is not reference]
    if not compared:
        raise UserError(f"there is no other search on the test images of {first.id}; run one, or leave out --against.")
    tables = {each.fingerprint: _tables(each, reference, name) for each in compared}
    words = _words(params, by_metric[0])
    confidence = params.evaluate.confidence
    shared = {
        each.fingerprint: _share_seeds(each.seeds, each.control_seeds if reference is None else reference.seeds)
        for each in compared
    }
    compare = compare_arms if name == ACCURACY_WORDS.name else compare_scores
    folds = {each.fingerprint: each.folds for each in compared}
    family = compare_family(tables, confidence=confidence, shared_seeds=shared, folds=folds, compare=compare)
    if words.is_share:
        family = [replace(member, comparison=clip_to_possible(member.comparison)) for member in family]
    rows = [_row(each, member, reference, confidence, words) for each, member in zip(compared, family, strict=True)]
    columns = {words.label if column == "accuracy" else column: side for column, side in COLUMNS.items()}
    yield from format_table(columns, rows, gives_way="against")
    yield ""
    searched = [[each.id, each.method, each.setting] for each in compared]  # apart, since it would be too wide together
    yield from format_table(SEARCH_COLUMNS, searched, gives_way="configuration")
    yield ""
    yield from _notes(compared, family, confidence, words)
    if apart:
        yield f"left out: {_ids(apart)}, not evaluated by {name}"
    if others:
        yield f"left out: {_ids(others)}, tested on other images"


def _row(
    each: StoredEvaluation, member: Member, reference: StoredEvaluation | None, confidence: float, words: MetricWords
) -> list[str]:
    """Returns the table's row of a search.

    Args:
        each: its evaluation.
        member: its comparison within the family.
        reference: the evaluation that replaces the controls, or None.
        confidence: joint confidence of the family, in (0, 1).
        words: the metric in words.
    """
    found = member.comparison
    name = each.control if reference is None else reference.id
    no_interval = found.low is None or found.high is None
    return [
        each.id,
        seeds_of(member),
        _value(found.best_mean, words),
        f"{name} {_value(found.control_mean, words)}",
        _difference(found.difference, words),
        "none" if no_interval else f"{_difference(found.low, words)} to {_difference(found.high, words)}",
        "none" if member.p_holm is None else f"{member.p_holm:.3f}",
        _shown(member, confidence, words),
    ]


def _value(value: float, words: MetricWords) -> str:
    return words.format_value(value, 2).removesuffix(" %")


def _difference(value: float | None, words: MetricWords) -> str:
    return words.format_difference(value or 0.0, 2, unit=False)


def _has_metric(each: StoredEvaluation, name: str, code: str) -> bool:
    """Returns whether an evaluation can be compared by a metric.

    Every evaluation can by accuracy.

    Args:
        each: the evaluation.
        name: name of the metric.
        code: hash of the metric's code, which must be the evaluation's.
    """
    if name == ACCURACY_WORDS.name:
        return True
    return each.metric_name == name and each.scores is not None and each.metric_hash == code


def _tables(each: StoredEvaluation, reference: StoredEvaluation | None, name: str) -> tuple[ArrayLike, ArrayLike]:
    """Returns the per-image results of the two arms of a comparison.

    Args:
        each: the evaluation of the search.
        reference: the evaluation whose best configuration replaces the control, or None.
        name: name of the metric.
    """
    if name == ACCURACY_WORDS.name:
        return each.best, each.control_correct if reference is None else reference.best
    other = each.control_scores if reference is None else reference.scores
    assert each.scores is not None
    assert other is not None
    return each.scores, other


def _words(params: Params, first: StoredEvaluation) -> MetricWords:
    """Returns the metric in words as the evaluation has it, with the margin of params.yaml if one is set."""
    if params.evaluate.metric == ACCURACY_WORDS.name:
        return accuracy_words(params)
    words = words_of(first.metric)
    return words if params.evaluate.margin is None else replace(words, margin=params.evaluate.margin)


def _shown(member: Member, confidence: float, words: MetricWords) -> str:
    """Returns the outcome of a comparison in a word, and what could have been found where the data do not suffice.

    Args:
        member: the comparison within its family.
        confidence: joint confidence of the family, in (0, 1).
        words: the metric in words, with its margin.
    """
    outcome = describe_outcome(member, confidence, words)
    if outcome == UNDECIDED and has_too_few_seeds(member.comparison):
        return f"{outcome} (raise retrain.seeds)"
    finds = words.format_difference(member.comparison.detectable_difference or 0.0, unit=False).lstrip("+")
    return f"{outcome} (finds {finds})" if outcome == UNDECIDED else outcome


def _share_seeds(seeds: list[int] | None, others: list[int] | None) -> bool:
    return seeds is not None and seeds == others


def _notes(
    compared: Sequence[StoredEvaluation], family: Sequence[Member], confidence: float, words: MetricWords
) -> Iterator[str]:
    """Yields the notes below the table.

    Args:
        compared: the evaluations in the table.
        family: their comparisons.
        confidence: joint confidence of the family, in (0, 1).
        words: the metric in words.
    """
    told = (
        "Accuracies"
        if words.name == ACCURACY_WORDS.name
        else f"{words.title}{', less of which is better,' * (words.sign < 0)}"
    )
    told += " in %, differences in points," if words.in_points else " and its differences as they are,"
    images, look = family[0].comparison.images, max(each.look for each in compared)
    made = sum(member.p is not None for member in family)
    yield (
        f"{told} on the same {images:,} test images; the latest of these evaluations "
        f"was look {look} at them{', so a chance result is likelier than the level says' * (look > 1)}."
    )
    yield (
        f"One family of {made} comparison{'s' * (made != 1)}: p corrected by Holm, intervals by Bonferroni, which all "
        f"hold together at {format_level(confidence)}."
    )
    if apart := [each for each, member in zip(compared, family, strict=True) if member.comparison.layout != PAIRED]:
        yield (
            f"{_ids(apart)}: compared as arms of independent seeds, which have wider intervals, since the seeds of the "
            "two arms are not the same, or were not kept."
        )
    controls = {each.against for each in compared}
    if len(controls) > 1:
        yield "The controls differ: " + "; ".join(f"{each.id}: {each.against}" for each in compared) + "."
    if alone := [each for each, member in zip(compared, family, strict=True) if member.p is None]:
        notes = dict.fromkeys(str(member.comparison.note) for member in family if member.p is None)
        yield f"{_ids(alone)}: {'; '.join(notes)}."


def _named(prefix: str, evaluations: Sequence[StoredEvaluation]) -> StoredEvaluation:
    """Returns the evaluation of the search whose id begins with a prefix.

    Raises a UserError unless there is exactly one.
    """
    found = [each for each in evaluations if each.fingerprint.startswith(prefix)]
    if len(found) != 1:
        several = "fits several searches" if found else "is the beginning of no search that has been evaluated"
        raise UserError(f"{quote_name(prefix)} {several}; evaluated searches: {_ids(evaluations)}")
    return found[0]


def _ids(evaluations: Sequence[StoredEvaluation]) -> str:
    return ", ".join(each.id for each in evaluations)
