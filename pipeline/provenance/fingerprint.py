"""The fingerprint of a search: a hash of everything that decides its trials, which names the search."""

import json
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from typing import Any

from pipeline.config import Content, Params, Values, parameters
from pipeline.models.model_config import Weights
from pipeline.provenance.code_hash import content_hash
from pipeline.provenance.weights_record import OPTIONS, PRETRAINED, SOURCE, hash_choices, replace_by_hashes

_WITHOUT_EFFECT = ("auto", "none", "val/accuracy", "val/loss")
"""Values of `search.choose.then` that change no trial: every trial measures these metrics, and none continues
because of them. `auto` has not been resolved yet.
"""
_OF_USER = "val/metric"
"""The objective that is the user's function of `evaluate.metric`."""


def fingerprint_content(
    params: Params,
    space: Content,
    *,
    data_hash: str,
    split_hash: str,
    weights: Mapping[str, Weights] | None = None,
) -> Content:
    """Returns everything that decides the trials of a search. Its hash is the fingerprint.

    Always included: data, split, seed, space, `model`, `train`, `regularizer`, sampler and scheduler.

    Included if they are set:

    - `search.points` and `search.warm_start`.
    - Objectives other than val/accuracy, and constraints, because these two decide which configurations are
    proposed and
      trained.
    - The metric that decides among equal configurations, if trials measure it or continue because of it.
    - The user's function, if it is an objective or that metric.

    Excluded because changing them extends the search: numbers of trials, budgets, confirmation, concurrency,
    addresses. Excluded because the user is asked instead: code and package versions.

    Args:
        params: Parameters of the search.
        space: Content of the search space (`SearchSpace.content()`).
        data_hash: Hash of the prepared set.
        split_hash: Hash of the split.
        weights: Pretrained weights by specification. They count by their hash, so that neither the path of a file
            nor a later meaning of an alias matters. None: without weights.
    """
    dump, known = params.model_dump(by_alias=True), weights or {}
    limits = {name: limit for name, limit in dump["search"]["constraints"].items() if limit is not None}
    del dump["train"]["workers"]  # affects the speed of loading, not the images
    for path, value in replace_by_hashes(
        {path: params.value(path) for path in (PRETRAINED, SOURCE, OPTIONS)}, known
    ).items():
        *parents, leaf = path.split(".")
        reduce(getitem, parents, dump)[leaf] = value
    return {
        "data": data_hash,
        "split": split_hash,
        "seed": params.base.seed,
        "space": hash_choices(space, known) if known else dict(space),
        **{section: dump[section] for section in ("model", "train", "regularizer")},
        "sampler": dump["search"]["sampler"],
        "scheduler": dump["search"]["scheduler"],
        **{key: dump["search"][key] for key in ("points", "warm_start") if dump["search"][key]},
        **({"objectives": dump["search"]["objectives"]} if params.search.objectives != ["val/accuracy"] else {}),
        **({"constraints": limits} if limits else {}),
        **({"then": then} if (then := params.search.choose.then) not in _WITHOUT_EFFECT else {}),
        **({"metric": params.evaluate.metric} if _OF_USER in (*params.search.objectives, then) else {}),
    }


def fingerprint(content: Content, generation: int = 0) -> str:
    """Returns the hash of the content that decides a search's trials (`fingerprint_content`), which names the search.

    Parameters at their default are left out, so that a parameter which is added later renames no search. If a default
    changes, the code's hash changes too, and the user is asked.

    Args:
        content: Content of `fingerprint_content`, which may come from a journal.
        generation: Number of earlier searches with this content that their user wanted to begin anew.
    """
    named = _without_defaults(content)
    return content_hash({**named, "generation": generation} if generation else named)


def _without_defaults(content: Content) -> Content:
    sections = {name: f"{name}." for name in ("model", "train", "regularizer")}
    sections |= {name: f"search.{name}." for name in ("sampler", "scheduler")}
    # Converted to JSON and back, because the content of a journal comes from JSON.
    plain: dict[str, Any] = json.loads(json.dumps(dict(content)))
    defaults = {
        path: json.loads(json.dumps(field.get_default(call_default_factory=True, validated_data={})))
        for path, field in parameters().items()
    }
    return plain | {name: _non_default(plain[name], path, defaults) for name, path in sections.items() if name in plain}


def _non_default(section: Content, prefix: str, defaults: Values) -> Content:
    """Returns the values of a section that differ from their defaults. Keys that are no parameters remain.

    Args:
        section: Values of the section.
        prefix: Dotted path of the section, with a dot at its end.
        defaults: Defaults of all parameters by dotted path.
    """
    changed = {}
    for key, value in section.items():
        path = f"{prefix}{key}"
        if path not in defaults and isinstance(value, Mapping):
            value = _non_default(value, f"{path}.", defaults)
            if not value:
                continue
        elif path in defaults and value == defaults[path]:
            continue
        changed[key] = value
    return changed
