"""What `search.warm_start` means: an earlier search that is kept here, or a table."""

from pipeline.config import Params
from pipeline.errors import UserError, named
from pipeline.ops.kept import choose, find_searches
from pipeline.ops.present import present_search
from pipeline.tune.known import Known, known_in, known_of
from pipeline.tune.ledger import LEDGER
from pipeline.tune.space import SearchSpace
from pipeline.workspace import Workspace


def known_beforehand(workspace: Workspace, params: Params, space: SearchSpace) -> list[Known]:
    """What the sampler of a new search is given to learn from; nothing if none is asked for.

    A search that has begun has its own copy: then it does not matter whether the source is still there.

    Raises:
        UserError: there is no such search or file, or it is of another space.
    """
    source = params.search.warm_start
    if source is None:
        return []
    where = f"params.yaml: search.warm_start: {named(source)}"
    try:
        if source.endswith(".csv"):
            return known_in(workspace.root / source, params, space, where=where)
        try:
            search = choose(find_searches(workspace.searches).searches, source)
        except UserError as error:
            raise UserError(f"{where}: {error} Or give a file whose name ends in .csv.") from None
        return known_of(search.history, params, space, where=where)
    except UserError:
        present = present_search(workspace, params)
        if present is not None and (present.folder / LEDGER).exists():
            return []
        raise
