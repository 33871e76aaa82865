"""Commands on the registry's champion: promotion through the gate, rollback, and the list of versions."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np

from pipeline.config import Params, load_params
from pipeline.errors import GateRefused, UserError, single_item_command
from pipeline.promotion.gate import (
    ACCEPTED,
    FAILED,
    PASSED,
    UNDECIDED,
    GateInputs,
    Rule,
    evaluate_gate,
    overall_outcome,
)
from pipeline.promotion.predictions import (
    CorrectOnTest,
    TestPredictions,
    latency_ms,
    predict_again,
    predictions_on_same_test,
    read_arms_tag,
    recorded_predictions,
    version_tag,
)
from pipeline.promotion.registered_version import AGAIN, REPAIR, find_registered_version, registered_json
from pipeline.score.classify import classification_scores
from pipeline.score.metrics.chosen_metric import chosen_metric, find_metric
from pipeline.score.metrics.metric import ACCURACY, Metric
from pipeline.score.paired_test import PairedDifference, PairedScores, paired_difference, paired_score_difference
from pipeline.state.looks import warn_of_look
from pipeline.state.searches import describe_running
from pipeline.tracking.hooks import PROMOTED, run_hook
from pipeline.tracking.registry.champion import DONE, ChampionChange, history, move_champion, roll_back
from pipeline.tracking.registry.versions import (
    CHALLENGER,
    HASH_TAG,
    OWN_ACCURACY_TAG,
    PROCEDURE_TAG,
    NoModel,
    Version,
    require_whole,
    versions,
)
from pipeline.tracking.store import Store, prepare_store, resolve_store, user_name
from pipeline.workspace import Workspace


def open_store(workspace: Workspace) -> Store:
    """Returns the tracking store of a checkout, after checking that it answers.

    Args:
        workspace: Workspace of the checkout.

    Raises:
        UserError: the store does not answer.
    """
    store = resolve_store(load_params(workspace.params).tracking.uri, workspace.anchor)
    prepare_store(store)
    return store


@contextmanager
def unless_running(workspace: Workspace) -> Iterator[None]:
    """Says in the error that the pipeline is running, if within the block there is no model yet.

    Args:
        workspace: Workspace of the checkout.

    Raises:
        UserError: there is no model, and the pipeline is running.
    """
    try:
        yield
    except NoModel:
        if running := describe_running(workspace):
            raise UserError(f"no model yet: {running}") from None
        raise


def promote_challenger(
    workspace: Workspace, reason: str | None, *, dry_run: bool = False, version: int | None = None
) -> Iterator[str]:
    """Judges the challenger, and makes it champion if it passes the gate.

    Args:
        workspace: Workspace with the data and results.
        reason: Reason that the user gives; None without one.
        dry_run: Whether the challenger is only judged.
        version: Version that is judged in place of the challenger. None: the challenger, which must be the version
            that `results/` belongs to, if there are results here.

    Yields:
        Lines about what was found and done.

    Raises:
        GateRefused: the challenger fails a rule, or a rule is undecided. The message names the rules, whose figures
            have been yielded.
        UserError: there is no challenger or no such version, or the challenger is not the version that `results/`
            belongs to. Or files or data to judge it by are missing or damaged, another process has moved the
            champion meanwhile, or the store fails.
    """
    params = load_params(workspace.params)
    name, store = params.model_name, open_store(workspace)
    if version is None:
        _require_that_of_results(workspace, params)
    with unless_running(workspace):
        listed = {each.version: each for each in versions(store, name)}
        _, champion = history(store, name)
        challenger = _find_version(listed, name, version)
    if challenger.version == champion:
        yield f"models:/{name}@champion is version {champion} already"
        return
    require_whole(store, name, challenger.version, doing=f"looking at version {challenger.version} of {name!r}")
    inputs, how, look = _gate_inputs(workspace, params, store, challenger, listed.get(champion or 0))
    rules = evaluate_gate(inputs, params.promote)
    outcome = overall_outcome(rules)
    yield f"version {challenger.version} of {name} against {f'version {champion}' if champion else 'no champion'}{how}"
    if warning := warn_of_look(look):
        yield warning
    for rule in rules:
        yield f"{rule.outcome:11} {rule.name}: {rule.detail}"
        if rule.to_decide:
            yield f"{'':11} enough to decide would be {rule.to_decide}"
    judged = {"name": name, "version": challenger.version, "champion": champion, "outcome": outcome, "dry_run": dry_run}
    _note(
        workspace, store, {**judged, "reason": reason, "look": look or None, "rules": [asdict(rule) for rule in rules]}
    )
    if outcome not in (PASSED, ACCEPTED):
        raise GateRefused(_refusal(name, challenger.version, champion, rules))
    if dry_run:
        yield f"it would be promoted; models:/{name}@champion is unchanged (--dry-run)"
        return
    gate = {rule.name: rule.outcome for rule in rules} | {"accuracy_value": round(inputs.accuracy, 4)}
    if look:
        gate["look"] = look
    if inputs.pair:
        gate |= {key: round(getattr(inputs.pair, key), 4) for key in ("difference", "low", "high")}
    move = move_champion(store, name, challenger.version, expected=champion, reason=reason, gate=gate)
    yield from _describe_change(name, move)
    told = {"model": name, "version": move.after, "previous": move.before or "", "reason": reason or ""}
    run_hook(params.tracking, PROMOTED, told, workspace.root)


def _find_version(listed: Mapping[int, Version], name: str, version: int | None) -> Version:
    """Returns the version to judge, by its number or the alias challenger.

    Args:
        listed: Versions of the model by number.
        name: Name of the model.
        version: Number of the version; None for the challenger.

    Raises:
        NoModel: there is no challenger.
        UserError: there is no such version.
    """
    if version is None:
        found = next((each for each in listed.values() if CHALLENGER in each.aliases), None)
        if found is None:
            raise NoModel(f"{name!r} has no {CHALLENGER} to promote\n  `make repro` makes one")
    elif (found := listed.get(version)) is None:
        raise UserError(f"{name!r} has no version {version}\n  `sar-search models` lists its versions")
    return found


def _require_that_of_results(workspace: Workspace, params: Params) -> None:
    """Checks that the challenger is the version that the results here belong to.

    Raises:
        UserError: the challenger is another version, `results/` belongs to another model, or the store has lost
            the version of `results/`.
    """
    found = find_registered_version(workspace, params)
    if found is None:
        return
    if found.name != params.model_name:
        raise UserError(
            f"results/ belongs to {found.model}, but params.yaml names {params.model_name!r}\n"
            "  run `make repro`, or name the version: sar-search promote --version N"
        )
    if found.lost:
        raise UserError(f"{found.lost}\n  `make repro` {AGAIN}")
    if found.other:
        raise UserError(
            f"{found.other_words}\n  make that one the challenger again: {REPAIR}\n"
            f"  or name the version to judge: sar-search promote --version {found.version}, or --version {found.other}"
        )


def restore_champion(workspace: Workspace, reason: str | None) -> Iterator[str]:
    """Makes the previous champion champion again.

    Args:
        workspace: Workspace of the checkout.
        reason: Reason that the user gives; None without one.

    Yields:
        Lines about the change.

    Raises:
        UserError: there is no previous champion, or the store fails.
    """
    name = load_params(workspace.params).model_name
    store = open_store(workspace)
    with unless_running(workspace):
        move = roll_back(store, name, reason=reason)
    yield from _describe_change(name, move)


def describe_models(workspace: Workspace) -> Iterator[str]:
    """Yields lines about every version of the model, its aliases, and the moves of the champion.

    Args:
        workspace: Workspace of the checkout.

    Raises:
        UserError: there is no such model, or the store fails.
    """
    name, store = load_params(workspace.params).model_name, open_store(workspace)
    with unless_running(workspace):
        listed, (moves, _) = versions(store, name), history(store, name)
    content = registered_json(workspace)
    shown = (content.version, content.model_hash) if content and content.name == name else None
    ours = next((each for each in listed if (each.version, each.tags.get(HASH_TAG)) == shown), None)
    yield f"{name} at {store.shown}"
    for each in listed:
        figures = _describe_accuracy(each.tags)
        if (metric := each.tags.get("sar.metric", ACCURACY.label)) != ACCURACY.label:
            figures += f", {metric} {each.tags.get('sar.test_metric', '?')}"
        if PROCEDURE_TAG in each.tags:
            figures += "; the mean is of its procedure, in folds"
        traced = f"commit {each.tags.get('sar.commit', 'unknown')[:8]}, data {each.tags.get('sar.data_hash', '?')[:8]}"
        aliases = "  ".join(f"@{alias}" for alias in each.aliases)
        if each is ours:
            aliases += "  results/ belongs to it"
        yield f"version {each.version:<3} {each.created:%Y-%m-%d %H:%M}  {figures}  {traced}  {aliases}".rstrip()
    if shown and ours is None:
        yield f"version {shown[0]}, to which results/ belongs, is missing: `make repro` registers it again"
    if moves:
        yield "moves of the champion (UTC)"
    for move in moves:
        way = f"{move.before or 'none'} -> {move.after}"
        undone = "" if move.state == DONE else f"  ({move.state}: it took no effect)"
        reason = f"  {move.reason}" if move.reason else ""
        yield f"{move.at[:16].replace('T', ' ')}  {move.action:8} {way}  by {move.by}{reason}{undone}"


def _describe_accuracy(tags: Mapping[str, str]) -> str:
    """Returns the accuracy of a version's network, and the mean over the seeds of its configuration, in words.

    Args:
        tags: Tags of the version; earlier versions of the pipeline wrote the mean alone.
    """
    own, mean = tags.get(OWN_ACCURACY_TAG), tags.get("sar.test_accuracy")
    if not mean:
        return "no figures"
    if own is None:
        return f"test accuracy {mean} (mean over seeds)"
    return f"test accuracy {own} (mean over seeds {mean})"


def _gate_inputs(
    workspace: Workspace, params: Params, store: Store, challenger: Version, champion: Version | None
) -> tuple[GateInputs, str, int]:
    """Collects the figures by which the gate judges the challenger.

    Args:
        workspace: Workspace with the data.
        params: Parameters of params.yaml.
        store: Tracking store.
        challenger: The version to judge.
        champion: The champion; None if there is none.

    Returns:
        The figures; the origin of the champion's predictions in words; and the number of the look at both versions.
        Without a comparison with a champion, it is the look of the challenger's evaluation, 0 if it was not recorded.
    """
    own = recorded_predictions(store, challenger)
    if own is None:
        own = predict_again(workspace, store, params, challenger)
    tested_on, not_compared = _describe_tested(challenger, own), ""
    scores = classification_scores(own.probabilities, own.labels)
    metric = chosen_metric(params)
    pair: PairedDifference | PairedScores | None = None
    arms = read_arms_tag(challenger)
    how, look = "", arms.look or 0
    if champion is not None:
        by_accuracy = metric.name == ACCURACY.name
        other = predictions_on_same_test(
            workspace, store, params, champion, challenger, needs_probabilities=not by_accuracy
        )
        if other is None:
            not_compared = (
                f"version {challenger.version} is judged by its predictions out of fold, and for these images version "
                f"{champion.version} has no predictions by networks that had not seen them"
            )
        elif not (np.isin(other.ids, own.ids).all() if own.folds else np.array_equal(other.ids, own.ids)):
            raise UserError(
                f"versions {challenger.version} and {champion.version} were tested on different images, although "
                f"their tags name one split\n  run `{single_item_command('evaluate', 'register')}`"
            )
        else:
            pair = _compare_with_champion(metric, own, other, params.promote.confidence)
            how, look = f", {other.how}", other.look
    latency = None
    if params.promote.max_latency_ms is not None:
        side, channels = (int(part) for part in version_tag(challenger, "sar.input").split("x")[1:])
        latency = latency_ms(store, params.model_name, challenger.version, side, channels)
    inputs = GateInputs(
        accuracy=scores.accuracy,
        ece=scores.ece,
        images=len(own.labels),
        commonest=float(np.bincount(own.labels).max() / len(own.labels)),
        arms=arms,
        margin=arms.margin or metric.words.margin,
        champion=champion.version if champion else None,
        pair=pair,
        latency_ms=latency,
        metric=metric.words,
        value=metric.value_of(own.probabilities, own.labels),
        blind=_blind_value(metric, own),
        champion_margin=find_metric(metric.name).margin or metric.words.margin,
        tested_on=tested_on,
        not_compared=not_compared,
    )
    return inputs, how, look


def _blind_value(metric: Metric, own: TestPredictions) -> float:
    """Returns the value of a classifier that looks at no image and predicts the classes' shares of the test images."""
    shares = np.bincount(own.labels, minlength=own.probabilities.shape[1]) / len(own.labels)
    return metric.value_of(np.tile(shares, (len(own.labels), 1)), own.labels)


def _compare_with_champion(
    metric: Metric, own: TestPredictions, other: CorrectOnTest, confidence: float
) -> PairedDifference | PairedScores:
    """Compares challenger and champion on the champion's images, all of which the challenger has predictions of.

    Args:
        metric: Metric of the comparison.
        own: Predictions of the challenger.
        other: Correct images and probabilities of the champion.
        confidence: Confidence of the interval.
    """
    rows = np.searchsorted(own.ids, other.ids)
    if metric.name == ACCURACY.name:
        return paired_difference(own.correct[rows], other.correct, confidence=confidence)
    assert other.probabilities is not None
    mine, labels = own.probabilities[rows], own.labels[rows]
    tables = metric.tables({"challenger": mine[None], "champion": other.probabilities[None]}, labels)
    if tables is not None and all(np.isfinite(table).all() for table in tables.values()):
        return paired_score_difference(tables["challenger"][0], tables["champion"][0], confidence=confidence)
    difference = metric.value_of(mine, labels) - metric.value_of(other.probabilities, labels)
    why = f"{metric.label} is declared not smooth" if tables is None else "a class has a single image"
    return PairedScores(difference, None, None, confidence, len(labels), why)


def _describe_tested(version: Version, own: TestPredictions) -> str:
    """Describes the images on which a version is judged."""
    if own.folds:
        return (
            f"images out of fold, by the networks of {own.folds} folds that its procedure made (it has seen them all)"
        )
    tested = "images kept apart from its folds (evaluate.holdout)" if PROCEDURE_TAG in version.tags else "test images"
    return f"{tested}, by the registered network"


def _refusal(name: str, version: int, champion: int | None, rules: Sequence[Rule]) -> str:
    """Returns the message of a challenger that does not pass the gate.

    Args:
        name: Name of the model.
        version: Version of the challenger.
        champion: Version of the champion; None if there is none.
        rules: Results of the rules, one of which failed or is undecided.
    """
    stays = f"version {champion} stays champion" if champion else "there is still no champion"
    named = {each: [rule.name for rule in rules if rule.outcome == each] for each in (FAILED, UNDECIDED)}
    begin = "is refused" if named[FAILED] else "is undecided"
    lines = [f"  {outcome}: {', '.join(names)}" for outcome, names in named.items() if names]
    return "\n".join([f"version {version} of {name} {begin}; {stays}", *lines])


def _describe_change(name: str, move: ChampionChange) -> Iterator[str]:
    before = f", before it version {move.before}" if move.before else ", the first"
    yield f"models:/{name}@champion is version {move.after} now{before}"
    if move.state != DONE:
        yield "the registry stopped answering before the move was fully recorded; the next move completes the record"


def _note(workspace: Workspace, store: Store, judged: Mapping[str, object]) -> None:
    """Appends a line about the judgement to `state/promotions.jsonl`, which includes refusals, unlike the registry.

    Args:
        workspace: Workspace of the checkout.
        store: Tracking store, whose account is named as the person who judges.
        judged: The judgement.
    """
    path = workspace.state / "promotions.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": time.time(), "by": user_name(store), **judged}) + "\n")
