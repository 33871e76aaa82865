"""`sar-search gc`: removes state that nothing in this checkout needs any more.

    old searches      all but the one that params.yaml asks for, those of results/ and of the last comparison,
                      running ones, and the newest few. Unreadable ones stay for their user to repair. Searches of an
                      earlier version are removed where no old ones stay (`--keep 0`).
    checkpoints       of searches that have ended: all but those of controls and of the best trials
    retrained weights that are not in models/, and checkpoints of abandoned retraining runs. None are removed while
                      there are no results, because it is then unknown which are needed.
    half-made data    once data/prepared is the set that params.yaml asks for
    splits of folds   other ones than those that params.yaml asks for
    guides            of data or splits that neither a remaining nor the requested search has
    frozen features   of `evaluate.probe` that results/ do not use
    fetched weights   that no remaining search, no results and no latest plan use

A search's files in shared storage (`search.cluster.storage`) are removed with it, and its checkpoints there
by the same rules as here. Files of other checkouts there are not touched.

Everything is first renamed into a folder `removed` under the same root, so nothing is ever removed in part.
The next call removes the leftovers of an interrupted one. A search is only changed under its lock.
`state/looks.jsonl`, `state/test_reads.jsonl` and the tracking store are never touched.
"""

import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from pipeline.artifacts.best_config import BestConfig, read_fold_searches
from pipeline.artifacts.evaluation import Evaluation
from pipeline.cluster.storage import StorageError, remove, size
from pipeline.compared.compared_methods import CONTROL
from pipeline.config import Params, load_params
from pipeline.console.format import format_size
from pipeline.errors import UserError
from pipeline.files.file_stats import size_of
from pipeline.inputs.procedure import fold_split
from pipeline.inputs.source import manifest_if_current
from pipeline.provenance.weights_record import cache_folder, read_note
from pipeline.state.current_search import current_search
from pipeline.state.earlier_searches import EARLIER_JOURNAL, earlier_lock, find_earlier
from pipeline.state.removal import REMOVED, Removal, discard, folders_of, place_of, purge
from pipeline.state.searches import SearchState, find_searches, is_held, read_search
from pipeline.state.status_words import describe_state
from pipeline.train.sidecar import SIDECAR
from pipeline.tune.journal.compatibility import SUPERSEDED
from pipeline.tune.journal.journal import lock_journal
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, PRUNED, TrialRecord
from pipeline.tune.journal.remote_files import checkpoint_folders, read_remote_files, remove_remote_files
from pipeline.workspace import FOLDS, Workspace

KEEP = 3
"""Old searches that stay, for users who go back to earlier parameters."""

BEGUN = "ray"
"""Folder under `state/retrain/` with the checkpoints of unfinished runs."""


def collect_garbage(workspace: Workspace, *, keep: int = KEEP, dry_run: bool = False) -> Iterator[str]:
    """Removes what is not needed, and yields a line for each item and one for the total.

    Args:
        workspace: the checkout.
        keep: number of old searches that stay.
        dry_run: whether to list the items only.

    Raises:
        UserError: params.yaml or its space is wrong, so the needed items are unknown.
    """
    params = load_params(workspace.params)
    with ExitStack() as stack:
        alone = not is_held(workspace.state / "stage.lock")
        if alone and not dry_run:
            stack.enter_context(workspace.locked("sar-search gc"))
        total = count = 0
        for item in _removals(workspace, params, keep=keep, alone=alone):
            if isinstance(item, str):
                yield item
                continue
            if not dry_run:
                try:
                    item.remove()
                except StorageError as error:
                    yield f"kept     {_shown(item.path, workspace)}: {error}"
                    continue
                except UserError:
                    yield f"kept     {_shown(item.path, workspace)}: in use by now"
                    continue
            total, count = total + item.size, count + 1
            doing = "would go" if dry_run else "removed"
            yield f"{doing:<8} {format_size(item.size):>8}  {_shown(item.path, workspace)}: {item.why}"
        if not count:
            yield "nothing to remove"
        elif dry_run:
            yield f"{format_size(total)} in all; nothing has been removed (--dry-run)"
        else:
            yield f"{format_size(total)} in all"


def _shown(path: Path | str, workspace: Workspace) -> str:
    if isinstance(path, str):
        return path
    return str(path.relative_to(workspace.anchor)) if path.is_relative_to(workspace.anchor) else str(path)


def _removals(workspace: Workspace, params: Params, *, keep: int, alone: bool) -> Iterator[Removal | str]:
    """Yields the removals, and remarks on items that stay although a user might expect their removal.

    Args:
        workspace: the checkout.
        params: its parameters.
        keep: number of old searches that stay.
        alone: whether no stage runs. Otherwise only searches are removed.
    """
    yield from _left_behind(workspace)
    going: set[Path | str] = set()
    for item in _searches(workspace, params, keep):
        if isinstance(item, Removal):
            going.add(item.path)
        yield item
    if alone:
        for folder in unneeded_weights(workspace, going):
            yield _removal_of_folder(folder, folder.parent, "fetched weights that nothing here uses")
        yield from _guides(workspace, params, going)
        yield from _retrained_weights(workspace)
        yield from _half_made(workspace, params)
        yield from _fold_splits(workspace, params)
        yield from _features(workspace)
    else:
        yield "kept     retrained weights, fetched ones and half-made data: a stage is running that may need them"


def _removal_of_folder(folder: Path, root: Path, why: str) -> Removal:
    """Returns the removal of a folder.

    Args:
        folder: the folder.
        root: the folder that contains it, perhaps at some depth.
        why: the reason in words.
    """
    return Removal(folder, why, size_of(folder), partial(discard, folder, root))


def _left_behind(workspace: Workspace) -> Iterator[Removal]:
    """Yields the leftovers of an interrupted gc."""
    for name in ("searches", "retrain", "prepare", "pretrained", "guides"):
        left, why = workspace.state / name / REMOVED, "left by an earlier gc that was interrupted"
        if left.is_dir():
            yield Removal(left, why, size_of(left), partial(shutil.rmtree, left))


def _searches(workspace: Workspace, params: Params, keep: int) -> Iterator[Removal | str]:
    """Yields the removals of old searches and of checkpoints, and remarks on searches that stay.

    Args:
        workspace: the checkout.
        params: its parameters.
        keep: number of old searches that stay.
    """
    current = current_search(workspace, params)
    found = find_searches(workspace.searches)
    yield from (f"kept     {reason}" for reason in found.unreadable)
    used = _used_by_results(workspace)
    for each in workspace.compared():
        with suppress(UserError):
            theirs = current_search(each, load_params(each.params))
            used |= {folder.name for folder in theirs.searches} if theirs else set()
    old = []
    for search in found.searches:
        if search.runner() is not None:
            yield f"kept     {_shown(search.folder, workspace)}: {describe_state(search, search.runner())}"
        elif (current and search.folder in current.searches) or search.folder.name in used:
            yield from _checkpoints(search, params)
        else:
            old.append(search)
    if current is None and len(old) > keep:
        yield "kept     every search: the one that the next run resumes is unknown until the data are prepared"
        keep = len(old)
    for search in old[:keep]:
        yield from _checkpoints(search, params)
    yield from _earlier_searches(workspace, used, go=keep == 0 and current is not None)
    for search in old[keep:]:
        how = f"{search.history.header.get('set', '?')}, {describe_state(search, None)}"
        why = f"search of {how}, not among the {keep} newest" if keep else f"search of {how}"
        yield _removal_of_search(workspace, search.journal, why)


def _earlier_searches(workspace: Workspace, used: Collection[str], *, go: bool) -> Iterator[Removal | str]:
    """Yields searches that an earlier version began, either as a removal or as a remark that they stay.

    Args:
        workspace: the checkout.
        used: names of the folders of searches that are in use.
        go: whether they are removed where possible.
    """
    for folder in find_earlier(workspace.searches):
        where = _shown(folder, workspace)
        if is_held(earlier_lock(folder)):
            yield f"kept     {where}: an earlier version runs it"
        elif folder.name in used:
            yield f"kept     {where}: begun by an earlier version; results/ came from it"
        elif not go:
            yield f"kept     {where}: begun by an earlier version; --keep 0 removes it with the other old ones"
        else:
            yield _removal_of_search(workspace, folder / EARLIER_JOURNAL, "search that an earlier version began")


def _removal_of_search(workspace: Workspace, journal: Path, why: str) -> Removal | str:
    """Returns the removal of a search, or a remark that it stays since its files in storage cannot be counted.

    Args:
        workspace: the checkout.
        journal: the search's journal, in its folder.
        why: the reason in words.
    """
    folder = journal.parent
    try:
        outside = read_remote_files(folder)
        held = size_of(folder) + (outside.bytes if outside else 0)
    except StorageError as error:
        return f"kept     {_shown(folder, workspace)}: {error}"
    return Removal(folder, why, held, partial(_remove_search, journal))


def _remove_search(journal: Path) -> None:
    """Removes a search's folder; where another search has taken its place, all but the mark that says so."""
    folder = journal.parent
    with ExitStack() as stack:
        stack.callback(lock_journal(journal).release)
        # Files in shared storage first, because a note in the folder names them.
        if (outside := read_remote_files(folder)) is not None:
            remove_remote_files(outside)
        mark = folder / SUPERSEDED
        if journal.name != EARLIER_JOURNAL and not mark.exists():
            discard(folder, folder.parent)
            return
        # The mark must stay, because the search that took its place is found by it. One of the same parameters may have
        # begun beside a search of an earlier version. The journal is removed last, because the next gc finds an
        # incompletely removed folder by it.
        mark.touch()
        gone = place_of(folder.parent, folder.name)
        gone.mkdir()
        for entry in sorted(folder.iterdir(), key=lambda path: path.name == journal.name):
            if entry.name not in (mark.name, journal.with_suffix(".lock").name):
                os.replace(entry, gone / entry.name)
        purge(gone)


def _used_by_results(workspace: Workspace) -> set[str]:
    """Returns the names of the folders of the searches from which results come; empty without results."""
    return {found.fingerprint[:16] for found in _best_found(workspace)}


def _best_found(workspace: Workspace) -> list[BestConfig]:
    """Returns the best configurations that results/ and comparisons contain. Unreadable ones are left out."""
    found: list[BestConfig] = []
    for each in (workspace, *workspace.compared()):
        with suppress(UserError):
            found += [BestConfig.read(each.results / "search"), *read_fold_searches(each.results).values()]
    return found


def _checkpoints(search: SearchState, params: Params) -> Iterator[Removal | str]:
    """Yields the removals of a search's checkpoints that are neither needed to resume nor of the best trials.

    A search that has not ended keeps all of them.
    """
    try:
        for place in _unneeded_checkpoints(search, params):
            why = f"checkpoint of {_end(place)[1]}, {_why_unneeded(search, _end(place)[1])} of search {search.id}"
            held = size_of(place) if isinstance(place, Path) else size(place)
            yield Removal(place, why, held, partial(_remove_checkpoint, search, params, place))
    except StorageError as error:
        yield f"kept     checkpoints of search {search.id}: {error}"


def _why_unneeded(search: SearchState, name: str) -> str:
    trial = search.history.trials.get(name)
    if trial is None:
        return "no trial"
    if trial.role == CONFIRMATION:
        return "a confirmation that has ended,"
    if trial.state == PRUNED:
        return "stopped early or paused, which begins anew if there will be more budget,"
    return "neither a control nor among the best"


def _remove_checkpoint(search: SearchState, params: Params, place: Path | str) -> None:
    """Removes a checkpoint of a search.

    Args:
        search: the search.
        params: the parameters.
        place: the checkpoint's folder, or its address in shared storage.

    Raises:
        UserError: the checkpoint is needed by now, since the search has been resumed.
    """
    with ExitStack() as stack:
        stack.callback(lock_journal(search.journal).release)
        # The search may have been resumed before the lock was taken.
        if place not in _unneeded_checkpoints(read_search(search.folder), params):
            raise UserError(f"{place}: is needed.")
        if isinstance(place, Path):
            discard(place, search.folder.parent)
        else:
            remove([place])


def _unneeded_checkpoints(search: SearchState, params: Params) -> list[Path | str]:
    """Returns the unneeded checkpoints of a search: folders here, and addresses in shared storage."""
    if search.open_trials:
        return []
    here = (folder for folder in search.folder.glob("ray/start-*/*/checkpoint_*") if folder.is_dir())
    outside = read_remote_files(search.folder)
    there: list[Path | str] = [*sorted(here), *(checkpoint_folders(outside) if outside else ())]
    ends = {_end(place) for place in there}
    needed = {_end(trial.checkpoint) for trial in _needed(search, params, ends) if trial.checkpoint}
    return [place for place in there if _end(place) not in needed]


def _end(checkpoint: Path | str) -> tuple[str, ...]:
    """Returns start, trial and number of a checkpoint, which identify it within a search.

    The journal of a checkout that was moved has the checkpoint's old path.
    """
    return tuple(str(checkpoint).split("/")[-3:])


def _needed(search: SearchState, params: Params, there: Collection[tuple[str, ...]]) -> Iterator[TrialRecord]:
    """Yields the trials whose checkpoints stay: controls, confirmed configurations and the best ones.

    As many of the best stay as the search itself keeps.

    Args:
        search: the search.
        params: the parameters.
        there: start, trial and number of the existing checkpoints.
    """
    confirmed = {trial.of for trial in search.trials if trial.role == CONFIRMATION}
    ran = [trial for trial in search.trials if trial.study is not None and trial.state == COMPLETE]
    ran.sort(key=lambda trial: -search.objectives.gain(trial))
    top = max(params.search.keep_checkpoints or len(ran), params.search.confirm.top)
    for study in {trial.study for trial in ran}:
        # The search may have passed over some of the very best for their empty maps, so existing checkpoints decide.
        yield from [t for t in ran if t.study == study and t.checkpoint and _end(t.checkpoint) in there][:top]
    yield from (trial for trial in search.trials if trial.control or trial.id in confirmed)


def _retrained_weights(workspace: Workspace) -> Iterator[Removal | str]:
    root = workspace.state / "retrain"
    folders = folders_of(root)
    compared = [each for each in workspace.compared() if each.results.name != CONTROL]
    retrained = [(each.results / "retrain" / "retrain.json").exists() for each in (workspace, *compared)]
    # With a comparison's results alone, those of the pipeline are not needed.
    if folders and not (all(retrained) or (compared and all(retrained[1:]) and not workspace.models.exists())):
        # DVC has removed the results before a stage that has not ended since, so these weights may be the only copy.
        yield "kept     retrained weights: without results, it is unknown which are needed"
        return
    kept = [each.models for each in (workspace, *compared)]
    used = {_sidecar(path) for folder in kept for pattern in ("*", f"{FOLDS}/*/*") for path in folder.glob(pattern)}
    begun = root / BEGUN
    for folder in folders_of(begun):
        yield _removal_of_folder(folder, root, "checkpoints of an abandoned retraining run")
    for folder in folders:
        if folder == begun:
            continue
        if (sidecar := _sidecar(folder)) is None or sidecar not in used:
            why = "retrained weights that are not in models/" if sidecar else "incompletely written retrained weights"
            yield _removal_of_folder(folder, root, why)


def unneeded_weights(workspace: Workspace, going: Collection[Path | str]) -> list[Path]:
    """Returns the folders of fetched weights that neither a remaining search nor results or the latest plan use.

    Args:
        workspace: the checkout.
        going: folders of the searches that are removed.
    """
    staying = [search for search in find_searches(workspace.searches).searches if search.folder not in going]
    hashes = {each["sha256"] for search in staying for each in search.history.header.get("weights", {}).values()}
    hashes |= {each.sha256 for found in _best_found(workspace) for each in found.weights.values()}
    hashes |= {each.sha256 for each in read_note(workspace).values()}
    needed = {cache_folder(workspace, sha256) for sha256 in hashes}
    return [folder for folder in folders_of(workspace.state / "pretrained") if folder not in needed]


def _guides(workspace: Workspace, params: Params, going: Collection[Path | str]) -> Iterator[Removal]:
    """Yields the removals of guides whose data and split belong to no search.

    Args:
        workspace: the checkout.
        params: its parameters.
        going: folders of the searches that are removed.
    """
    current, root = current_search(workspace, params), workspace.state / "guides"
    contents = [each.content for each in current.searches.values()] if current else []
    searches = find_searches(workspace.searches).searches
    contents += [each.history.header.get("content", {}) for each in searches if each.folder not in going]
    needed = {(content.get("data"), content.get("split")) for content in contents}
    for folder in folders_of(root):
        try:
            of = json.loads(_sidecar(folder) or b"{}")
        except ValueError:  # no run can use a damaged one
            of = {}
        if (of.get("data"), of.get("split")) not in needed:
            yield _removal_of_folder(folder, root, "a guide, of a split that no search has")


def _sidecar(folder: Path) -> bytes | None:
    """Returns the bytes of a checkpoint's sidecar.

    They are equal for a run and for its copy, since they contain its curves.
    """
    try:
        return (folder / SIDECAR).read_bytes()
    except OSError:
        return None


def _half_made(workspace: Workspace, params: Params) -> Iterator[Removal]:
    root = workspace.state / "prepare"
    for folder in folders_of(root) if manifest_if_current(workspace, params) else []:
        yield _removal_of_folder(folder, root, "half-made data; data/prepared is whole")


def _fold_splits(workspace: Workspace, params: Params) -> Iterator[Removal]:
    """Yields the removals of the files of folds that params.yaml does not ask for.

    They can be made again from data/split.json.
    """
    current = current_search(workspace, params)
    if current is None:
        return
    used = {fold_split(workspace, str(each.content["data"]), str(each.content["split"])) for each in current.folds}
    root = workspace.state / FOLDS
    for path in sorted(root.glob("*.json")):
        if path not in used:
            yield Removal(path, "a fold's split, of other folds or data", size_of(path), partial(path.unlink))


def _features(workspace: Workspace) -> Iterator[Removal]:
    """Yields the removals of features of `evaluate.probe` that the results do not use.

    They can be made again from the weights.
    """
    try:
        probe = Evaluation.read(workspace.results / "evaluate").probe
    except UserError:
        probe = None
    used = probe and probe.features_file
    for path in sorted((workspace.state / "features").glob("*.npy")):
        if path.name != used:
            yield Removal(path, "frozen features that results/ do not use", size_of(path), partial(path.unlink))
