"""The `sar-search` command. It parses arguments; `pipeline.commands` and the rooms below do the work."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.compute.temp_dirs import check_temporary
from pipeline.entry import run_entry
from pipeline.environment import clean_environment
from pipeline.files.paths import expand_home
from pipeline.workspace import Workspace, find_workspace

if TYPE_CHECKING:
    from pipeline.cluster.launch.cluster_files import Cluster

TWO_ANSWERS = "--resume-anyway and --new contradict each other; give only one of them."
WHICH_MODEL = "champion, challenger, a version, or models:/name@alias [default: champion]"


class FilePath(click.Path):
    """A path whose leading `~` is the home folder, even where no shell expands it, as in `--onnx=~/model.onnx`."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(expand_home(str(value)), param, ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def main() -> None:
    """Runs the `sar-search` command."""
    clean_environment(typed=True)
    run_entry(_parse_and_call)


def _announce(doing: str) -> None:
    """Says on a terminal what is done now, before imports that take seconds. Standard output stays as it is."""
    if sys.stderr.isatty():
        click.echo(f"{doing} ...", err=True)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _parse_and_call() -> None:
    # In click's standalone mode an interruption would end with status 1. Wrong usage ends with 2 in both modes.
    try:
        cli(prog_name="sar-search", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        raise KeyboardInterrupt from None


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="sar-search", prog_name="sar-search")
def cli() -> None:
    """Find how much attention regularisation helps a Vision Transformer on your images.

    Run it in the checkout. The pipeline itself runs by `make repro`, which is `sar-search repro`.
    """


def _check_parameters(workspace: Workspace) -> None:
    """Makes those checks of the parameters that need none of the imports that take seconds."""
    from pipeline.preflight.search_budget import read_parameters

    read_parameters(workspace)


@cli.command()
@click.option("--resume-anyway", is_flag=True, help="Resume a search that other code or versions began.")
@click.option("--new", is_flag=True, help="Begin a new search in place of one that other code or versions began.")
@click.option("--no-measure", is_flag=True, help="Do not time training steps; the plan then has no estimate of time.")
def check(resume_anyway: bool, new: bool, no_measure: bool) -> None:
    """Validate params.yaml and the search space, print the plan with an estimate of time and cost; start nothing."""
    if resume_anyway and new:
        raise click.UsageError(TWO_ANSWERS)
    check_temporary()  # before imports that take seconds
    workspace = find_workspace()
    _announce("checking the parameters, and estimating the run")
    _check_parameters(workspace)
    from pipeline.commands.check import run_check
    from pipeline.console.format import fit_lines

    _print(
        fit_lines(line) for line in run_check(workspace, resume_anyway=resume_anyway, new=new, measured=not no_measure)
    )


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[DVC REPRO'S ARGUMENTS]")
def repro(arguments: tuple[str, ...]) -> None:
    """Check, run every stage that is not up to date (`dvc repro`), and print the results."""
    check_temporary()
    workspace, doing = find_workspace(), "make repro"
    with workspace.locked(doing, lock="repro"), workspace.locked(doing):
        pass  # raises at once if the pipeline or a stage is running; the lock is taken when the imports are done
    click.echo("checking the parameters, and estimating the run")
    _check_parameters(workspace)
    from pipeline.commands.repro import reproduce

    sys.exit(reproduce(workspace, arguments))


@cli.command()
@click.argument("prefix", default="")
def params(prefix: str) -> None:
    """List the parameters (those that begin with PREFIX): default, allowed values, purpose."""
    from pipeline.commands.params import describe_parameters

    click.echo(describe_parameters(prefix))


@cli.command()
def datasets() -> None:
    """List the sets that prepare.dataset can name: size, classes, masks, licence, whether each is on this machine."""
    from pipeline.commands.datasets import describe_datasets

    _print(describe_datasets(find_workspace()))


@cli.command()
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a parameter; may be repeated.")
@click.option(
    "--save",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Write a checkpoint after every epoch, or resume from the one there; model.pretrained can name the folder.",
)
def train(overrides: tuple[str, ...], save: Path | None) -> None:
    """Train one configuration, without a search, and print its epochs."""
    from pipeline.config import load_params

    workspace = find_workspace()
    load_params(workspace.params)  # before imports that take seconds
    _announce("reading the data and building the network")
    from pipeline.commands.train import parse_assignments, train_once

    _print(train_once(workspace, parse_assignments(overrides), save))


@cli.command()
def results() -> None:
    """Print what the last run found, and where its files are."""
    from pipeline.commands.results import describe_results

    click.echo(describe_results(find_workspace()))


@cli.command()
@click.argument("searches", nargs=-1, metavar="[SEARCH]...")
@click.option(
    "--against",
    default="",
    metavar="SEARCH",
    help="Compare with the best configuration of this search, not the controls.",
)
@click.option(
    "--run",
    "methods",
    default=None,
    metavar="METHODS",
    help="Search, retrain and test these methods, such as sar,tv,sp_vit.",
)
@click.option("--check", is_flag=True, help="With --run: check every method, estimate the time of all; start nothing.")
@click.option(
    "--no-measure", is_flag=True, help="With --run: do not time training steps, and give no estimate of time."
)
@click.option("--resume-anyway", is_flag=True, help="With --run: resume searches that other code began.")
@click.option("--new", is_flag=True, help="With --run: begin new searches in place of those that other code began.")
def compare(searches: tuple[str, ...], against: str, methods: str | None, check: bool, **options: bool) -> None:
    """Compare the results of several searches on the same test images, corrected for their number (Holm).

    With --run METHODS, the searches are run first, each with search.budget. METHODS are names of search_spaces/ or
    paths of files. Every method is compared with one control, which is tuned with the same budget if there is
    something to tune.
    """
    if methods is None:
        if check or any(options.values()):
            raise click.UsageError(
                "--check, --no-measure, --resume-anyway and --new can only be used with --run METHODS."
            )
        from pipeline.commands.compare import describe_comparison

        _print(describe_comparison(find_workspace(), searches, against=against))
        return
    if searches or against:
        raise click.UsageError(
            "--run METHODS cannot be combined with ids of searches or --against. To compare finished searches, leave "
            "out --run; to start or resume searches, leave out the ids and --against."
        )
    if options["resume_anyway"] and options["new"]:
        raise click.UsageError(TWO_ANSWERS)
    check_temporary()  # before imports that take seconds
    from pipeline.commands.compare_run import Answer, check_methods, run_methods

    answer, measured = Answer(options["resume_anyway"], options["new"]), not options["no_measure"]
    if not check:
        sys.exit(run_methods(find_workspace(), methods, answer, measured=measured))
    _print(check_methods(find_workspace(), methods, answer, measured=measured))


@cli.command()
@click.argument("search", default="")
def status(search: str) -> None:
    """List the searches of this checkout, or the trials of the one whose id begins with SEARCH."""
    from pipeline.commands.status import describe_search, describe_searches

    workspace = find_workspace()
    _print(describe_search(workspace, search) if search else describe_searches(workspace))


@cli.command()
@click.option(
    "--finish",
    is_flag=True,
    help="Start no further trials; let running trials end, confirm the best, and continue to the results.",
)
def stop(finish: bool) -> None:
    """Interrupt the search that runs in this checkout, as Ctrl-C would, and wait until it has ended."""
    from pipeline.commands.stop import stop_search

    _print(stop_search(find_workspace(), finish=finish))


@cli.command()
@click.argument("trial")
@click.option("--search", default=None, metavar="ID", help="[default: the running search, or that of params.yaml]")
@click.option("-f", "--follow", is_flag=True, help="Print further epochs until the trial has ended.")
def logs(trial: str, search: str | None, follow: bool) -> None:
    """Print a trial's configuration, state, reason of failure and epochs."""
    from pipeline.commands.logs import describe_trial

    _print(describe_trial(find_workspace(), trial, search=search, follow=follow))


@cli.command()
@click.option("--dry-run", is_flag=True, help="List what would be removed; remove nothing.")
@click.option(
    "--keep",
    default=3,
    show_default=True,
    type=click.IntRange(min=0),
    help="Number of newest searches that stay, beside that of params.yaml, that of the results, and a running one.",
)
def gc(dry_run: bool, keep: int) -> None:
    """Remove files that are no longer needed from state/ and shared storage: searches, checkpoints, weights,
    half-made data.
    """
    from pipeline.commands.gc import collect_garbage

    _print(collect_garbage(find_workspace(), keep=keep, dry_run=dry_run))


def _open_registry() -> Workspace:
    """Returns the checkout, before the import of MLflow, after a check of its parameters."""
    from pipeline.config import load_params

    workspace = find_workspace()
    load_params(workspace.params)
    _announce("asking the registry")
    return workspace


@cli.command()
@click.option("--dry-run", is_flag=True, help="Judge the challenger, with the same looks; do not promote it.")
@click.option("--version", default=None, type=click.IntRange(min=1), help="Judge this version instead.")
@click.option("--reason", default=None, help="Reason, which is recorded with user and time.")
def promote(dry_run: bool, version: int | None, reason: str | None) -> None:
    """Make the registry's challenger the champion, if it passes the gate of params.yaml (promote).

    Judging a version together with the champion for the first time counts as a look at the test images, with
    --dry-run too. A first model, without a champion, has been judged by its evaluation; that is no further look.
    """
    workspace = _open_registry()
    from pipeline.promotion.promote import promote_challenger

    _print(promote_challenger(workspace, reason, dry_run=dry_run, version=version))


@cli.command()
@click.option("--reason", default=None, help="Reason, which is recorded with user and time.")
def rollback(reason: str | None) -> None:
    """Make the previous champion champion again."""
    workspace = _open_registry()
    from pipeline.promotion.promote import restore_champion

    _print(restore_champion(workspace, reason))


@cli.command()
def models() -> None:
    """List the registered versions, their aliases, and every move of the champion."""
    workspace = _open_registry()
    from pipeline.promotion.promote import describe_models

    _print(describe_models(workspace))


@cli.command()
@click.argument("images", nargs=-1, type=FilePath())
@click.option("--model", default=None, help=WHICH_MODEL)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array with the probabilities of all classes.")
@click.option("--overlays", default=None, type=FilePath(), metavar="FOLDER", help="Write images of the attention here.")
def predict(images: tuple[Path, ...], model: str | None, as_json: bool, overlays: Path | None) -> None:
    """Classify image files (in folders, all files) with the registered model."""
    import json

    from pipeline.errors import UserError

    if not images:
        raise click.UsageError("Name image files or folders, as in: sar-search predict photo.jpg")
    workspace = _open_registry()
    if not any(map(os.path.lexists, images)):
        raise UserError(f"{images[0]}: No such file or directory")
    from pipeline.commands.predict import classify_files, format_prediction

    answers = []
    for answer in classify_files(workspace, images, model=model, overlays=overlays):
        answers.append(answer)
        if not as_json:
            click.echo(format_prediction(answer))
    if as_json:
        click.echo(json.dumps(answers, indent=1))
    if failed := sum(answer["error"] is not None for answer in answers):
        raise UserError(f"{failed} of {len(answers)} images could not be classified")


@cli.command()
@click.option("--onnx", required=True, type=FilePath(), metavar="FILE", help="File to write.")
@click.option("--model", default=None, help=WHICH_MODEL)
def export(onnx: Path, model: str | None) -> None:
    """Write the registered model as an ONNX file, and check it against torch."""
    from pipeline.commands.predict import export_model

    _print(export_model(find_workspace(), onnx, model=model))


@cli.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="On 127.0.0.1.")
def ui(port: int) -> None:
    """Open the MLflow UI on this machine, until interrupted."""
    from pipeline.config import load_params
    from pipeline.promotion.promote import open_store
    from pipeline.tracking.ui import serve_ui

    workspace = find_workspace()
    serve_ui(open_store(workspace), port, load_params(workspace.params).experiment)


@cli.command()
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535), help="On 127.0.0.1.")
def dashboard(port: int) -> None:
    """Open the last search's study in optuna-dashboard on this machine, until interrupted."""
    from pipeline.commands.dashboard import serve_dashboard

    serve_dashboard(find_workspace(), port)


@cli.group()
def cluster() -> None:
    """Start a Ray cluster of several machines, run the pipeline on it, take it down (docs/cluster.md).

    NAME is one of docker/ray-NAME.yaml (onprem, aws, gcp), or a file of that form.
    """


def _open_cluster(name: str) -> "Cluster":
    from pipeline.cluster.launch.cluster_files import open_cluster

    return open_cluster(find_workspace(), name)


@cluster.command(name="up")
@click.argument("name")
def cluster_up(name: str) -> None:
    """Start the cluster, or update it, and wait until its workers have joined."""
    from pipeline.cluster.launch.launcher import up

    _print(up(_open_cluster(name)))


@cluster.command(name="repro", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[DVC REPRO'S ARGUMENTS]")
def cluster_repro(name: str, arguments: tuple[str, ...]) -> None:
    """Run the pipeline on the head node, or follow the run that is there, and download its results."""
    from pipeline.cluster.launch.launcher import repro

    _print(repro(_open_cluster(name), arguments))


@cluster.command(name="status")
@click.argument("name")
def cluster_status(name: str) -> None:
    """List the cluster's nodes, and print the state of its run."""
    from pipeline.cluster.launch.launcher import status

    _print(status(_open_cluster(name)))


@cluster.command(name="stop")
@click.argument("name")
def cluster_stop(name: str) -> None:
    """Interrupt the run on the head node, as Ctrl-C there would. `cluster repro` resumes it."""
    from pipeline.cluster.launch.launcher import ask_job

    _print(ask_job(_open_cluster(name), "stop"))


@cluster.command(name="logs")
@click.argument("name")
def cluster_logs(name: str) -> None:
    """Print the output of the newest run so far. `cluster repro` follows it."""
    from pipeline.cluster.launch.launcher import ask_job

    _print(ask_job(_open_cluster(name), "logs"))


@cluster.command(name="down")
@click.argument("name")
def cluster_down(name: str) -> None:
    """Take the cluster down, whatever runs on it, and check whether anything is left."""
    from pipeline.cluster.launch.launcher import down

    _print(down(_open_cluster(name)))


if __name__ == "__main__":
    main()
