"""What a step costs, from the check to the stage that follows it within minutes: measured once for both."""

import json
import platform
import time
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from pipeline.ops.identity import code_hashes
from pipeline.ops.measuring import StepCost, measure_steps
from pipeline.ops.plan import Plan

RECENT_S = 600.0
"""Seconds for which a measurement counts as made just now."""


def step_cost(plan: Plan, *, recent: bool = False) -> StepCost:
    """What a training step of the plan costs on this machine, measured now.

    recent: take a measurement of the last minutes where there is one of the same plan, machine and code.

    Raises:
        UserError: as of `measure_steps`.
    """
    kept, key = plan.workspace.state / "step_cost.json", _key(plan)
    found = _read(kept, key) if recent else None
    if found is not None:
        return found
    cost = measure_steps(plan)
    with suppress(OSError):  # a check of a new checkout makes no folder, and of a full disk others complain
        kept.write_text(json.dumps({"key": key, "at": time.time(), "cost": asdict(cost)}))
    return cost


def _key(plan: Plan) -> str:
    decides = {
        "params": plan.params.model_dump(mode="json"),
        "space": plan.space.content(),
        "device": plan.device,
        "resources": asdict(plan.resources),
        "images": plan.images,
        "weights": {spec: weights.sha256 for spec, weights in plan.pretrained.items()},
        "code": code_hashes(),
        "machine": platform.node(),
    }
    return sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()


def _read(kept: Path, key: str) -> StepCost | None:
    try:
        found = json.loads(kept.read_text())
        # A clock that was set back makes it none of the last minutes.
        if found["key"] != key or not 0 <= time.time() - found["at"] < RECENT_S:
            return None
        low, high = found["cost"]["seconds_per_step"]
        return StepCost(**{**found["cost"], "seconds_per_step": (low, high)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
