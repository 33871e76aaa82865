"""Results of a comparison's methods, from the outputs of their stages, as one family of comparisons.

The family contains a comparison of every method with the control by `evaluate.metric`. Where the images have
masks, it also contains one by attention (AUROC of the fixed head). All p values are corrected by Holm and all
intervals by Bonferroni.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.artifacts.best_config import BestConfig
from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.evaluation_words import CONTROL, describe_probe
from pipeline.artifacts.retraining import Retraining
from pipeline.artifacts.search_result import SearchSummary
from pipeline.config import Values
from pipeline.console.format import format_level
from pipeline.score.comparison import clip_to_possible, has_too_few_seeds
from pipeline.score.family import Member, correct_family
from pipeline.score.metrics.wording import ATTENTION_WORDS, MetricWords
from pipeline.state.looks import warn_of_look
from pipeline.workspace import FOLDS, Workspace, part_folder

ATTENTION = "attention"
CENTRED = "centre"
"""Name of the Gaussian in the centre in evaluation.json."""
RAISED, LOWERED, ALIKE, UNDECIDED, NO_INTERVAL = "raised", "lowered", "no difference", "not enough data", "no interval"
"""Outcomes of a comparison."""


@dataclass(frozen=True)
class SearchCost:
    """Cost of a search, with the searches of all folds.

    Attributes:
        epochs: trained epochs.
        hours: elapsed hours.
    """

    epochs: int
    hours: float


@dataclass(frozen=True)
class MethodResult:
    """Results of one method.

    Attributes:
        name: name of the method.
        fingerprint: fingerprint of its search.
        configuration: its best configuration in words.
        member: its comparison by the metric, with p and interval of the family.
        attention: its comparison by attention, with p and interval of the family; None without masks.
        cost: cost of its search.
        look: number of the look at the test images.
        first_look: number of the look at which its networks were first tested; None if that is `look`.
        networks: hash of the tested networks.
        retraining_seconds: seconds of its retraining.
    """

    name: str
    fingerprint: str
    configuration: str
    member: Member
    attention: Member | None
    cost: SearchCost
    look: int
    first_look: int | None
    networks: str
    retraining_seconds: float


@dataclass(frozen=True)
class ProbeResult:
    """Result of the probe beside the methods (`evaluate.probe`).

    Attributes:
        configuration: its regularisation, as `C=...`.
        value: its value by the metric.
        said: sentences on the probe and on the control beside it.
    """

    configuration: str
    value: float
    said: str


@dataclass(frozen=True)
class ComparedResults:
    """Results of a comparison.

    Attributes:
        methods: results of the methods.
        control: name of the control.
        against: the control in words.
        configuration: the control's configuration in words.
        cost: cost of the control's own search; None without one.
        words: the metric in words.
        confidence: joint confidence of the family, in (0, 1).
        images: number of test images.
        folds: number of folds; 0 without folds.
        data_hash: hash of the prepared set.
        centred: AUROC of a Gaussian in the centre of every image, which does not depend on the image; None without
            masks.
        probe: result of the probe; None without one.
    """

    methods: tuple[MethodResult, ...]
    control: str
    against: str
    configuration: str
    cost: SearchCost | None
    words: MetricWords
    confidence: float
    images: int
    folds: int
    data_hash: str
    centred: float | None = None
    probe: ProbeResult | None = None

    @property
    def look(self) -> int:
        """Number of the look at the test images, from 1."""
        return max(method.look for method in self.methods)

    @property
    def size(self) -> int:
        """Number of comparisons in the family."""
        members = [each for method in self.methods for each in (method.member, method.attention) if each is not None]
        return sum(member.p is not None for member in members)

    def outcome(self, member: Member) -> str:
        """Returns the outcome of a comparison by the metric."""
        return describe_outcome(member, self.confidence, self.words)

    def content(self) -> dict[str, Any]:
        """Returns the content of comparison.json."""
        return {
            "control": self.control,
            "against": self.against,
            "control_configuration": self.configuration,
            "control_cost": None if self.cost is None else asdict(self.cost),
            "metric": self.words.content(),
            "confidence": self.confidence,
            "family": self.size,
            "test_images": self.images,
            "folds": self.folds,
            "data_hash": self.data_hash,
            "look": self.look,
            "centred_attention": self.centred,
            "probe": None if self.probe is None else asdict(self.probe),
            "methods": [asdict(method) | {"shown": self.outcome(method.member)} for method in self.methods],
        }


def share_control(results: Workspace, values: Mapping[int, Values], name: str, against: str) -> None:
    """Replaces a search's own control by the one that all methods share.

    It is replaced in best.yaml, from which retraining takes it, and in summary.json.

    Args:
        results: the workspace of one method.
        values: the control's values by number of the fold; 0 stands for all images.
        name: name of the control.
        against: the control in words.
    """
    for number, each in values.items():
        folder = part_folder(results.results / "search", number)
        BestConfig.read(folder).with_control(name, each, against).write(folder)
        SearchSummary.read(folder).with_against(against).write(folder)


def search_cost(workspace: Workspace) -> SearchCost:
    """Returns the cost of a search, with the searches of its folds.

    Args:
        workspace: the workspace of the method.
    """
    folder = workspace.results / "search"
    numbers = [0, *(int(path.name) for path in (folder / FOLDS).glob("*") if path.name.isdecimal())]
    found = [SearchSummary.read(part_folder(folder, number)) for number in numbers]
    return SearchCost(sum(each.epochs.spent for each in found), sum(each.spent.hours for each in found))


def gather_results(
    workspaces: Mapping[str, Workspace], *, confidence: float, configuration: str, cost: SearchCost | None
) -> ComparedResults:
    """Reads the evaluations of all methods, and corrects their comparisons as one family.

    Args:
        workspaces: workspace of each method by its name.
        confidence: joint confidence of the family, in (0, 1).
        configuration: the control's configuration in words.
        cost: cost of the control's search; None without one.

    Raises:
        UserError: a method has not been evaluated.
    """
    evaluated = {name: Evaluation.read(each.results / "evaluate") for name, each in workspaces.items()}
    retrained = {name: Retraining.read(each.results / "retrain") for name, each in workspaces.items()}
    tested = {(name, ""): evaluation.comparison for name, evaluation in evaluated.items()}
    tested |= {
        (name, ATTENTION): evaluation.attention_comparison
        for name, evaluation in evaluated.items()
        if evaluation.attention_comparison is not None
    }
    comparisons = {" ".join(key): comparison for key, comparison in tested.items()}
    first, one = next(iter(evaluated.values())), next(iter(retrained.values()))
    members = correct_family(comparisons, confidence=confidence)
    family = {
        key: replace(member, comparison=clip_to_possible(member.comparison))
        if key[1] == ATTENTION or first.words.is_share
        else member
        for key, member in zip(tested, members, strict=True)
    }
    centre = (first.baselines or {}).get(CENTRED)
    return ComparedResults(
        methods=tuple(
            MethodResult(
                name=name,
                fingerprint=evaluation.fingerprint,
                configuration=retrained[name].setting,
                member=family[name, ""],
                attention=family.get((name, ATTENTION)),
                cost=search_cost(workspaces[name]),
                look=evaluation.look or 1,
                first_look=evaluation.first_look,
                networks=evaluation.networks,
                retraining_seconds=retrained[name].seconds,
            )
            for name, evaluation in evaluated.items()
        ),
        control=first.control,
        against=one.against,
        configuration=configuration,
        cost=cost,
        words=first.words,
        confidence=confidence,
        images=first.test_images,
        folds=len(first.folds),
        data_hash=first.data_hash,
        centred=None if centre is None else centre.auroc,
        probe=next(filter(None, map(_read_probe, evaluated.values())), None),
    )


def _read_probe(evaluation: Evaluation) -> ProbeResult | None:
    """Returns the probe's result of an evaluation; None without one."""
    said, probe = describe_probe(evaluation, CONTROL), evaluation.probe
    return None if said is None or probe is None else ProbeResult(f"C={probe.C:g}", probe.value, said)


def describe_outcome(member: Member, confidence: float, words: MetricWords) -> str:
    """Returns the outcome of a comparison in a word.

    `raised` refers to the value, even if a smaller value is better.

    Args:
        member: the comparison.
        confidence: joint confidence of the family, in (0, 1).
        words: the metric in words, with its margin.
    """
    found = member.comparison
    if member.p_holm is None or found.low is None or found.high is None:
        return NO_INTERVAL
    if member.p_holm < 1 - confidence:
        return RAISED if found.difference > 0 else LOWERED
    return ALIKE if -words.margin < found.low and found.high < words.margin else UNDECIDED


def describe_answer(found: ComparedResults) -> Iterator[str]:
    """Yields the answer of a comparison, a sentence for each outcome.

    Args:
        found: the results of the comparison.
    """
    words = found.words
    helps = RAISED if words.sign > 0 else LOWERED
    harms = LOWERED if words.sign > 0 else RAISED
    verb = {RAISED: "raise", LOWERED: "lower"}
    by = {
        outcome: [method for method in found.methods if found.outcome(method.member) == outcome]
        for outcome in (RAISED, LOWERED, ALIKE, UNDECIDED, NO_INTERVAL)
    }
    for outcome in (helps, harms):
        if chosen := by[outcome]:
            amounts = ", ".join(words.format_difference(method.member.comparison.difference) for method in chosen)
            yield f"{_subject(chosen, verb[outcome])} {words.label} ({amounts})."
    if not by[helps]:
        yield f"No method is shown to {verb[helps]} {words.label}."
    if chosen := by[ALIKE]:
        yield f"{_subject(chosen, 'differ')} from the control by less than {words.format_margin()}."
    if chosen := by[UNDECIDED]:
        told = f"For {_join(chosen)} there is not enough data to tell"
        if few := [method for method in chosen if has_too_few_seeds(method.member.comparison)]:
            yield f"{told}. {words.ask_for_seeds(few[0].member.comparison.seeds)}"
        else:
            most = max(method.member.comparison.detectable_difference or 0.0 for method in chosen)
            yield f"{told}; a difference of {words.format_size(most)} would have been found four times out of five."
    if chosen := by[NO_INTERVAL]:
        yield f"Of {_join(chosen)} there is no interval: {chosen[0].member.comparison.note}."
    looked = [method for method in found.methods if method.attention is not None]
    better = [method for method in looked if _attends_better(method, found.confidence)]
    if better:
        areas = (f"{method.attention.comparison.difference:+.2f}" for method in better if method.attention)
        amounts = ", ".join(areas).replace("0.", ".")
        yield f"{_subject(better, 'attend')} to the object better (AUROC {amounts})."
    if rest := [method for method in looked if method not in better]:
        yield _deny(rest, "shown to attend to the object better than the control")
        few_seeds = [each for method in rest if (each := method.attention) and has_too_few_seeds(each.comparison)]
        if few_seeds:
            yield ATTENTION_WORDS.ask_for_seeds(few_seeds[0].comparison.seeds)
    yield from _compare_with_centre(found)


def _compare_with_centre(found: ComparedResults) -> Iterator[str]:
    """Yields a sentence on a Gaussian in the centre, beside the control's and the methods' attention."""
    areas = {method.name: method.attention.comparison for method in found.methods if method.attention is not None}
    if found.centred is None or not areas:
        return
    means = {"the control": next(iter(areas.values())).control_mean}
    means |= {name: each.best_mean for name, each in areas.items()}
    ahead = [name for name, mean in means.items() if mean > found.centred]
    said = f"A Gaussian in the centre of every image, which does not look at it, has an AUROC of {found.centred:.2f}"
    said = said.replace(" 0.", " .")
    if not ahead:
        yield f"{said}, more than the attention of any method and of the control."
    elif len(ahead) == len(means):
        yield f"{said}, less than the attention of every method and of the control."
    else:
        yield f"{said}; only the attention of {_join_names(ahead)} has more."


def describe_family(found: ComparedResults) -> Iterator[str]:
    """Yields sentences on how the methods were compared, and on what does not follow from it."""
    masks = any(method.attention is not None for method in found.methods)
    by = f"by {found.words.label}" + " and by attention" * masks
    of = f"in {found.folds} folds" if found.folds else f"on {found.images:,} test images"
    one = found.size == 1
    yield (
        f"One family of {found.size} comparison{'s' * (not one)} with the control, {by}, {of}: p corrected by Holm, "
        f"intervals by Bonferroni, which all hold together at {format_level(found.confidence)}."
    )
    yield f"The control is {found.against}; every method is compared with the same networks of it."
    if len(found.methods) > 1:
        yield "Methods are not compared with each other here: the highest of several is also the luckiest."


def warn_of_looks(found: ComparedResults) -> str:
    """Returns a warning if the test images were looked at before; empty at the first look."""
    earlier = [f"{method.name} at look {method.first_look}" for method in found.methods if method.first_look]
    first = f" First tested before: {_join_names(earlier)}." if earlier else ""
    return warn_of_look(found.look) + first


def seeds_of(member: Member) -> str:
    """Returns the number of seeds, or the numbers of both arms where they differ.

    Args:
        member: the comparison.
    """
    best, control = member.comparison.seeds
    return str(best) if best == control else f"{best}/{control}"


def _attends_better(method: MethodResult, confidence: float) -> bool:
    member = method.attention
    return (
        member is not None
        and member.p_holm is not None
        and member.p_holm < 1 - confidence
        and member.comparison.difference > 0
    )


def _deny(methods: Sequence[MethodResult], what: str) -> str:
    """Returns a sentence that says of every method that it is not something."""
    names = [method.name for method in methods]
    if len(names) == 1:
        return f"{names[0]} is not {what}."
    return f"{f'Neither {names[0]} nor {names[1]}' if len(names) == 2 else f'None of {_join(methods)}'} is {what}."


def _join(methods: Sequence[MethodResult]) -> str:
    return _join_names([method.name for method in methods])


def _join_names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _subject(methods: Sequence[MethodResult], verb: str) -> str:
    return f"{_join(methods)} {verb}{'s' * (len(methods) == 1)}"
