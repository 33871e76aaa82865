"""Results for `search.warm_start`: from an earlier search of this checkout, or from a table."""

from collections.abc import Sequence

from pipeline.config import Params
from pipeline.data.sources.source_config import Preview
from pipeline.errors import UserError, quote_name
from pipeline.state.current_search import current_search
from pipeline.state.searches import choose_search, find_searches
from pipeline.tune.journal.records import JOURNAL
from pipeline.tune.objectives.objectives import PARAMETERS, objectives_from_params
from pipeline.tune.objectives.parameter_count import parameter_counter
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.warm_start import PriorResult, results_from_csv, results_from_search
from pipeline.workspace import Workspace


def load_prior_results(workspace: Workspace, params: Params, space: SearchSpace, data: Preview) -> list[PriorResult]:
    """Returns the results from which the sampler of a new search learns; none if `search.warm_start` is null.

    A search that has begun has its own copy of them, so its source need not exist any more.

    Args:
        workspace: The checkout.
        params: All parameters.
        space: The search space.
        data: The image source.

    Raises:
        UserError: There is no such search or file, or it belongs to another search space.
    """
    source = params.search.warm_start
    if source is None:
        return []
    where = f"params.yaml: search.warm_start: {quote_name(source)}"
    try:
        if source.endswith(".csv"):
            return _describe_count(results_from_csv(workspace.root / source, params, space, where=where), params, data)
        try:
            search = choose_search(find_searches(workspace.searches).searches, source)
        except UserError as error:
            raise UserError(f"{where}: {error} Or give a file whose name ends in .csv.") from None
        return _describe_count(results_from_search(search.history, params, space, where=where), params, data)
    except UserError:
        current = current_search(workspace, params)
        if current is not None and (current.folder / JOURNAL).exists():
            return []
        raise


def _describe_count(results: Sequence[PriorResult], params: Params, data: Preview) -> list[PriorResult]:
    """Returns the results with the parameter counts of their networks added, if an objective needs these.

    Args:
        results: Results of the warm start.
        params: All parameters.
        data: The image source.
    """
    if PARAMETERS not in objectives_from_params(params).metrics:
        return list(results)
    count = parameter_counter(params, num_classes=len(data.classes), channels=data.channels)
    return [
        {**each, "metrics": {**each.get("metrics", {}), PARAMETERS: float(count(each["values"]))}} for each in results
    ]
