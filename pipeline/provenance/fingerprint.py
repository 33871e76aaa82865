"""The fingerprint of a search: a hash of everything that decides its trials, which names it."""

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
"""Of `search.choose.then`: what every trial measures anyway, and that lets none go on. `auto`: not known yet."""
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
    """What decides a search's trials: data, split, seed, space, `model`, `train`, `regularizer`, sampler, scheduler;
    where they are given, also the points that come first, what is known beforehand, objectives beside val/accuracy and
    constraints: these two decide which configurations are proposed, and which of them are trained; and the metric that
    decides among equals, where trials measure it for that, or go on by it; and the user's function, where that is one.

    space: `SearchSpace.content()`. Numbers of trials, budgets, confirmation, concurrency and addresses are not in it:
    they extend a search. Nor are code and versions: when they change, the user is asked. weights: pretrained ones by
    specification, for which their hash stands here: wherever the file lies, and whatever an alias means later.
    """
    dump, known = params.model_dump(by_alias=True), weights or {}
    limits = {name: limit for name, limit in dump["search"]["constraints"].items() if limit is not None}
    del dump["train"]["workers"]  # how fast images come, not which
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
    """The hash of what decides a search's trials (`fingerprint_content`), which names the search.

    Parameters at their default are left out, so that one which is added later renames no search. Where a default
    changes, the code's hash does, and the user is asked.

    generation: how many searches of this content came before, which their user wanted to begin anew.
    """
    named = _without_defaults(content)
    return content_hash({**named, "generation": generation} if generation else named)


def _without_defaults(content: Content) -> Content:
    sections = {name: f"{name}." for name in ("model", "train", "regularizer")}
    sections |= {name: f"search.{name}." for name in ("sampler", "scheduler")}
    # As JSON has it, which the content comes back from.
    plain: dict[str, Any] = json.loads(json.dumps(dict(content)))
    defaults = {
        path: json.loads(json.dumps(field.get_default(call_default_factory=True, validated_data={})))
        for path, field in parameters().items()
    }
    return plain | {name: _non_default(plain[name], path, defaults) for name, path in sections.items() if name in plain}


def _non_default(section: Content, prefix: str, defaults: Values) -> Content:
    """The values of a section that differ from their defaults; what is no parameter stays."""
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
