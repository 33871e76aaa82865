"""What the methods of a comparison came to, from what their stages left: one family of comparisons, in rows and words.

The family holds a comparison of every method with the control by `evaluate.metric` and, where the images have masks,
one by attention (AUROC of the fixed head): p by Holm, intervals by Bonferroni, over all of them together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.artifacts.best_config import BestConfig
from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.evaluation_words import CONTROL, describe_probe
from pipeline.artifacts.retraining import Retraining
from pipeline.artifacts.search_result import SearchSummary
from pipeline.config import Values
from pipeline.console.format import format_level
from pipeline.score.family import Member, correct_family
from pipeline.score.metrics.wording import MetricWords
from pipeline.workspace import FOLDS, Workspace, part_folder

ATTENTION = "attention"
RAISED, LOWERED, ALIKE, UNDECIDED, NO_INTERVAL = "raised", "lowered", "no difference", "not enough data", "no interval"
"""What may come of a comparison."""


@dataclass(frozen=True)
class SearchCost:
    """epochs: that a search trained, of all folds together; hours: by the clock."""

    epochs: int
    hours: float


@dataclass(frozen=True)
class MethodResult:
    """What a method came to. configuration: its best. member: by the metric; attention: by attention, None
    without masks. Both have the family's intervals and p. networks: hash of those that were tested.
    """

    name: str
    fingerprint: str
    configuration: str
    member: Member
    attention: Member | None
    cost: SearchCost
    look: int
    networks: str
    retraining_seconds: float


@dataclass(frozen=True)
class ProbeResult:
    """The probe beside the methods (`evaluate.probe`). configuration: its strength. value: by the metric. said: what it
    is, and the control beside it, in sentences.
    """

    configuration: str
    value: float
    said: str


@dataclass(frozen=True)
class ComparedResults:
    """All of a comparison. control: its name; against: what it is, in words; configuration: its own. cost: of its
    own search; None without one. probe: None without one.
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
    probe: ProbeResult | None = None

    @property
    def look(self) -> int:
        """Which look at the test images it was."""
        return max(method.look for method in self.methods)

    @property
    def size(self) -> int:
        """How many comparisons the family has."""
        members = [each for method in self.methods for each in (method.member, method.attention) if each is not None]
        return sum(member.p is not None for member in members)

    def outcome(self, member: Member) -> str:
        """What came of a comparison by the metric."""
        return describe_outcome(member, self.confidence, self.words)

    def content(self) -> dict[str, Any]:
        """For comparison.json."""
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
            "probe": None if self.probe is None else asdict(self.probe),
            "methods": [asdict(method) | {"shown": self.outcome(method.member)} for method in self.methods],
        }


def share_control(results: Workspace, values: Mapping[int, Values], name: str, against: str) -> None:
    """Put the control that all methods share in the place of a search's own: in best.yaml, from which it is retrained,
    and in what summary.json says of it.

    results: of one method. values: of the control, by the number of the fold, 0 of all images. against: in words.
    """
    for number, each in values.items():
        folder = part_folder(results.results / "search", number)
        BestConfig.read(folder).with_control(name, each, against).write(folder)
        SearchSummary.read(folder).with_against(against).write(folder)


def search_cost(workspace: Workspace) -> SearchCost:
    """What a search and those outside of its folds have taken."""
    folder = workspace.results / "search"
    numbers = [0, *(int(path.name) for path in (folder / FOLDS).glob("*") if path.name.isdecimal())]
    found = [SearchSummary.read(part_folder(folder, number)) for number in numbers]
    return SearchCost(sum(each.epochs.spent for each in found), sum(each.spent.hours for each in found))


def gather_results(
    workspaces: Mapping[str, Workspace], *, confidence: float, configuration: str, cost: SearchCost | None
) -> ComparedResults:
    """Correct what the methods' evaluations say for their number.

    workspaces: of the methods, by name. configuration, cost: of the control.

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
    family = dict(zip(tested, correct_family(comparisons, confidence=confidence), strict=True))
    first, one = next(iter(evaluated.values())), next(iter(retrained.values()))
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
        probe=next(filter(None, map(_read_probe, evaluated.values())), None),
    )


def _read_probe(evaluation: Evaluation) -> ProbeResult | None:
    """The probe of an evaluation.json, if it has one."""
    said, probe = describe_probe(evaluation, CONTROL), evaluation.probe
    return None if said is None or probe is None else ProbeResult(f"C={probe.C:g}", probe.value, said)


def describe_outcome(member: Member, confidence: float, words: MetricWords) -> str:
    """What came of a comparison, in a word; `raised` is of the value, also where less of it is better."""
    found = member.comparison
    if member.p_holm is None or found.low is None or found.high is None:
        return NO_INTERVAL
    if member.p_holm < 1 - confidence:
        return RAISED if found.difference > 0 else LOWERED
    return ALIKE if -words.margin < found.low and found.high < words.margin else UNDECIDED


def describe_answer(found: ComparedResults) -> Iterator[str]:
    """What the comparison says, a sentence for each outcome."""
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
            amounts = ", ".join(_amount(method, words) for method in chosen)
            yield f"{_subject(chosen, verb[outcome])} {words.label} ({amounts})."
    if not by[helps]:
        yield f"No method is shown to {verb[helps]} {words.label}."
    if chosen := by[ALIKE]:
        yield f"{_subject(chosen, 'differ')} from the control by less than {words.format_margin()}."
    if chosen := by[UNDECIDED]:
        most = max(method.member.comparison.detectable_difference or 0.0 for method in chosen)
        found_by = f"a difference of {words.format_size(most)} would have been found four times out of five"
        if words.in_points and most >= 1:
            found_by = f"with {seeds_of(chosen[0].member)} seeds hardly any difference could have been found"
        yield f"For {_join(chosen)} there is not enough data to tell; {found_by}."
    if chosen := by[NO_INTERVAL]:
        yield f"Of {_join(chosen)} there is no interval: {chosen[0].member.comparison.note}."
    looked = [method for method in found.methods if method.attention is not None]
    better = [method for method in looked if _attends_better(method, found.confidence)]
    if better:
        amounts = ", ".join(_area(method.attention.comparison.difference) for method in better if method.attention)
        yield f"{_subject(better, 'attend')} to the object better (AUROC {amounts})."
    if rest := [method for method in looked if method not in better]:
        yield f"Of {_join(rest)} better attention is not shown."


def describe_family(found: ComparedResults) -> Iterator[str]:
    """How it was compared, and what does not follow from it."""
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
    """What is to be known of the look; "" at the first."""
    return f"This is look {found.look} at these test images, so no error rate holds." if found.look > 1 else ""


def seeds_of(member: Member) -> str:
    """How many seeds, of both arms where they differ."""
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


def _amount(method: MethodResult, words: MetricWords) -> str:
    return words.format_difference(method.member.comparison.difference)


def _area(difference: float) -> str:
    return f"{difference:+.2f}".replace("0.", ".")


def _join(methods: Sequence[MethodResult]) -> str:
    names = [method.name for method in methods]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _subject(methods: Sequence[MethodResult], verb: str) -> str:
    return f"{_join(methods)} {verb}{'s' * (len(methods) == 1)}"
