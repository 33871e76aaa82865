"""Resources of trials and of retraining runs, checked against this machine or the cluster's nodes."""

from collections.abc import Sequence

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
        there: Nodes of the cluster; None to ask the cluster.

    Raises:
        UserError: Not one run fits, or a run's several workers would share a GPU.
    """
    address, retrain = cluster_address(params.search.cluster.address), params.retrain
    if address is None:
        cpus, gpus = usable_cpus(), machine_gpus(params.base.device)
        there = [Node("", "this machine", "", cpus, gpus)]
    else:
        there = cluster_nodes(address) if there is None else there
        cpus, gpus = int(sum(node.cpus for node in there)), int(sum(node.gpus for node in there))
    each = default_gpus(retrain.gpus_per_run, 0 if params.base.device == "cpu" else gpus)
    if retrain.workers_per_run > 1 and 0 < each < 1:
        raise UserError(
            f"params.yaml: retrain.gpus_per_run: given {each:g}; of several workers (retrain.workers_per_run "
            f"{retrain.workers_per_run}) each needs a GPU of its own: set it to 1, or workers_per_run to 1."
        )
    if each > 1 and each != int(each):
        raise UserError(
            f"params.yaml: retrain.gpus_per_run: given {each:g}; above 1 it must be a whole number of GPUs."
        )
    fit = sum(node.fit(retrain.cpus_per_run, each) for node in there)
    grows = address is not None and params.search.max_concurrent_trials is not None
    if fit < retrain.workers_per_run and not grows:
        raise UserError(_explain_no_capacity(params, there, each, fit))
    return Resources(
        cpus=retrain.cpus_per_run,
        gpus=each,
        max_concurrent=fit,
        machine_cpus=cpus,
        machine_gpus=gpus,
        address=address,
        nodes=len(there),
    )


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
    machines = ", ".join(f"{node.name}: {node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in there)
    if retrain.workers_per_run == 1:
        takes = f"a retraining run takes {retrain.cpus_per_run} CPUs and {gpus:g} GPUs (cpus_per_run, gpus_per_run)"
        return f"params.yaml: retrain: {takes}, and nothing has that: {machines}. Lower it."
    return (
        f"params.yaml: retrain.workers_per_run: given {retrain.workers_per_run}, each with {retrain.cpus_per_run} CPUs "
        f"and {gpus:g} GPUs (cpus_per_run, gpus_per_run), and there is room for {fit}: {machines}. Lower one of them."
    )


def trial_resources(params: Params) -> Resources:
    """Returns the resources of a trial, and the number of trials that run concurrently.

    Raises:
        UserError: A trial or a retraining run needs more CPUs or GPUs than there are.
    """
    search, retrain = params.search, params.retrain
    address = cluster_address(search.cluster.address)
    if address is not None:
        return _cluster_resources(params, address)
    cpus, gpus = usable_cpus(), machine_gpus(params.base.device)
    each = default_gpus(search.gpus_per_trial, gpus)
    for name, asked, there in (
        ("search.cpus_per_trial", search.cpus_per_trial, cpus),
        ("search.gpus_per_trial", each, gpus),
        ("retrain.cpus_per_run", retrain.cpus_per_run, cpus),
        ("retrain.gpus_per_run", default_gpus(retrain.gpus_per_run, gpus), gpus),
    ):
        if asked > there:
            kind = "CPU cores" if "cpus" in name else "GPUs that may be used (see base.device)"
            raise UserError(f"params.yaml: {name}: given {asked:g}, but this machine has {there} {kind}; lower it.")
        if "gpus" in name and asked > 1 and asked != int(asked):
            raise UserError(f"params.yaml: {name}: given {asked:g}; above 1 it must be a whole number of GPUs.")
    retrain_resources(params)
    fit = cpus // search.cpus_per_trial
    if each:
        fit = min(fit, int(gpus / each + 1e-9))
    return Resources(
        cpus=search.cpus_per_trial,
        gpus=each,
        max_concurrent=min(fit, search.max_concurrent_trials or fit),
        machine_cpus=cpus,
        machine_gpus=gpus,
    )


def _cluster_resources(params: Params, address: str) -> Resources:
    """Returns the resources of a trial, and the number of trials that fit on the cluster's current nodes.

    Raises:
        UserError: The cluster cannot be joined; or a trial fits on none of its nodes, and the cluster does not grow.
    """
    search, there = params.search, cluster_nodes(address)
    cpus, gpus = int(sum(node.cpus for node in there)), int(sum(node.gpus for node in there))
    each = default_gpus(search.gpus_per_trial, 0 if params.base.device == "cpu" else gpus)
    fit = sum(node.fit(search.cpus_per_trial, each) for node in there)
    if not fit and search.max_concurrent_trials is None:
        raise UserError(
            f"params.yaml: search: a trial takes {search.cpus_per_trial} CPUs and {each:g} GPUs, and no node of "
            f"{address} has that: {', '.join(f'{n.name}: {n.cpus:g} CPUs, {n.gpus:g} GPUs' for n in there)}. Lower it, "
            "or, where the cluster grows by itself, say how many trials it should grow for "
            "(search.max_concurrent_trials)."
        )
    retrain_resources(params, there)
    return Resources(
        cpus=search.cpus_per_trial,
        gpus=each,
        max_concurrent=search.max_concurrent_trials or fit,
        machine_cpus=cpus,
        machine_gpus=gpus,
        address=address,
        nodes=len(there),
    )
