"""Resources of trials and of retraining runs, checked against this machine or the cluster's nodes."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.cluster.connect import Node, cluster_address, cluster_nodes
from pipeline.cluster.resources import default_gpus, machine_gpus
from pipeline.compute.limits import usable_cpus
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.tune.task import Resources


def retrain_resources(params: Params, there: Sequence[Node] | None = None) -> Resources:
    """Returns the resources of each worker of a retraining run, and the number of workers that fit.

    Args:
        params: All parameters.
        there: Nodes of the cluster, or this machine; None to look at them.

    Raises:
        UserError: Not one run fits, or a run's several workers would share a GPU.
    """
    retrain, there = params.retrain, _nodes(params) if there is None else there
    found = _fitting(params, there, retrain.cpus_per_run, retrain.gpus_per_run)
    each = found.gpus
    if retrain.workers_per_run > 1 and 0 < each < 1:
        raise UserError(
            f"params.yaml: retrain.gpus_per_run: given {each:g}; of several workers (retrain.workers_per_run "
            f"{retrain.workers_per_run}) each needs a GPU of its own: set it to 1, or workers_per_run to 1."
        )
    if retrain.workers_per_run > 1 and (retrain.seeds_per_worker or 1) > 1:
        raise UserError(
            f"params.yaml: retrain.seeds_per_worker: given {retrain.seeds_per_worker}, but with "
            f"retrain.workers_per_run {retrain.workers_per_run} several workers train one seed: set one of them to 1."
        )
    _check_whole("retrain.gpus_per_run", each)
    grows = found.address is not None and params.search.max_concurrent_trials is not None
    if found.max_concurrent < retrain.workers_per_run and not grows:
        raise UserError(_explain_no_capacity(params, there, each, found.max_concurrent))
    return found


def trial_resources(params: Params) -> Resources:
    """Returns the resources of a trial, and the number of trials that run concurrently.

    Raises:
        UserError: The cluster cannot be joined; or a trial or a retraining run needs more CPUs or GPUs than there are,
            and no cluster grows by itself.
    """
    search, there = params.search, _nodes(params)
    found = _fitting(params, there, search.cpus_per_trial, search.gpus_per_trial)
    fit, most = found.max_concurrent, search.max_concurrent_trials
    if found.address is None:
        _check_machine(params, found)
    elif not fit and most is None:
        raise UserError(
            f"params.yaml: search: a trial takes {search.cpus_per_trial} CPUs and {found.gpus:g} GPUs, and no node of "
            f"{found.address} has as many: {_list_nodes(there)}. Lower these numbers, or, if the cluster grows by "
            "itself, say how many trials it should grow for (search.max_concurrent_trials)."
        )
    retrain_resources(params, there)
    return replace(found, max_concurrent=min(fit, most or fit) if found.address is None else most or fit)


def _nodes(params: Params) -> Sequence[Node]:
    """Returns the nodes of the cluster; without one, this machine."""
    if (address := cluster_address(params.search.cluster.address)) is not None:
        return cluster_nodes(address)
    return [Node("", "this machine", "", usable_cpus(), machine_gpus(params.base.device))]


def _fitting(params: Params, there: Sequence[Node], cpus: int, gpus: float | None) -> Resources:
    """Returns the resources of as many workers as fit on all nodes together.

    Args:
        params: All parameters.
        there: Nodes of the cluster, or this machine.
        cpus: CPUs of a worker.
        gpus: GPUs of a worker; None for the default.
    """
    all_cpus, all_gpus = int(sum(node.cpus for node in there)), int(sum(node.gpus for node in there))
    each = default_gpus(gpus, 0 if params.base.device == "cpu" else all_gpus)
    fit = sum(node.fit(cpus, each) for node in there)
    return Resources(cpus, each, fit, all_cpus, all_gpus, cluster_address(params.search.cluster.address), len(there))


def _check_machine(params: Params, found: Resources) -> None:
    """Checks that this machine has the CPUs and GPUs of a trial and of a retraining run.

    Raises:
        UserError: It has fewer; or more than one GPU is asked for, and not a whole number.
    """
    search, retrain = params.search, params.retrain
    for name, asked, there in (
        ("search.cpus_per_trial", search.cpus_per_trial, found.machine_cpus),
        ("search.gpus_per_trial", found.gpus, found.machine_gpus),
        ("retrain.cpus_per_run", retrain.cpus_per_run, found.machine_cpus),
        ("retrain.gpus_per_run", default_gpus(retrain.gpus_per_run, found.machine_gpus), found.machine_gpus),
    ):
        if asked > there:
            kind = "CPU cores" if "cpus" in name else "GPUs that may be used (see base.device)"
            raise UserError(f"params.yaml: {name}: given {asked:g}, but this machine has {there} {kind}; lower it.")
        if "gpus" in name:
            _check_whole(name, asked)


def _check_whole(name: str, gpus: float) -> None:
    """Raises a UserError for a number of GPUs above 1 that is not whole."""
    if gpus > 1 and gpus != int(gpus):
        raise UserError(f"params.yaml: {name}: given {gpus:g}; above 1 it must be a whole number of GPUs.")


def _list_nodes(there: Sequence[Node]) -> str:
    return ", ".join(f"{node.name}: {node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in there)


def check_batch_shards(workers: int, *, batch_size: int, accumulate: int, where: str) -> None:
    """Checks that every worker of a retraining run gets at least one image of each batch.

    Args:
        workers: Workers of a run.
        batch_size: Images of a batch.
        accumulate: Micro-batches of a batch.
        where: Beginning of the message, which says where the values come from.

    Raises:
        UserError: A micro-batch has fewer images than there are workers.
    """
    if workers > 1 and workers * accumulate > batch_size:
        micro_batches = f" in {accumulate} micro-batches (train.accumulate)" if accumulate > 1 else ""
        raise UserError(
            f"{where}: retrain.workers_per_run: given {workers}, but a batch has {batch_size} images"
            f"{micro_batches}, too few for each worker to have one; lower it, or raise train.batch_size."
        )


def _explain_no_capacity(params: Params, there: Sequence[Node], gpus: float, fit: int) -> str:
    """Returns the message that a retraining run does not fit.

    Args:
        params: All parameters.
        there: Nodes of the cluster, or this machine.
        gpus: GPUs of each worker.
        fit: Number of workers that fit.
    """
    retrain = params.retrain
    machines = _list_nodes(there)
    if retrain.workers_per_run == 1:
        takes = f"a retraining run takes {retrain.cpus_per_run} CPUs and {gpus:g} GPUs (cpus_per_run, gpus_per_run)"
        return f"params.yaml: retrain: {takes}, and no machine has as many: {machines}. Lower these numbers."
    return (
        f"params.yaml: retrain.workers_per_run: given {retrain.workers_per_run}, each with {retrain.cpus_per_run} CPUs "
        f"and {gpus:g} GPUs (cpus_per_run, gpus_per_run), and there is room for {fit}: {machines}. Lower one of them."
    )
