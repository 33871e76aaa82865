"""The optimizer of a stack: one step for all members, with each member's state as a run of its own would have it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.train.optim import make_optimizer
from pipeline.train.train_config import TrainConfig

ELEMENTWISE = ("adamw", "nadamw", "lion", "sgd")
"""Optimizers that change each weight by its own gradient and state alone, so that a stack's step is its members'."""


class StackedOptimizer:
    """The recipe's optimizer over a stack, and over what its members' regularisers train.

    Its groups are those of a run of one member. A group has the stack's parameters, and beside them each member's.

    Args:
        stack: the stack.
        members: its members.
        beside: modules that are trained beside each member.
        config: the recipe.

    Attributes:
        optimizer: the optimizer.
    """

    def __init__(
        self, stack: nn.Module, members: Sequence[nn.Module], beside: Sequence[nn.Module], config: TrainConfig
    ) -> None:
        self.optimizer: Optimizer = make_optimizer(members[0], config, beside=beside[0])
        own = {id(weight): name for name, weight in members[0].named_parameters()}
        others = {id(weight): name for name, weight in beside[0].named_parameters()}
        self._slots: list[list[list[nn.Parameter]]] = []
        """By group and by parameter of a single run: the stack's parameter, or one for each member."""
        for group in self.optimizer.param_groups:
            slots = [
                [stack.get_parameter(own[id(weight)])]
                if id(weight) in own
                else [each.get_parameter(others[id(weight)]) for each in beside]
                for weight in group["params"]
            ]
            self._slots.append(slots)
            group["params"] = [weight for slot in slots for weight in slot]
        self._stacked = {id(weight) for weight in stack.parameters()}

    @torch.no_grad()
    def clip(self, largest: float) -> None:
        """Scales each member's gradients so that their norm is at most `largest`, as torch's `clip_grad_norm_` does.

        A norm that is not finite spoils its own member alone.

        Args:
            largest: largest norm.
        """
        norms: list[Tensor] = []
        found: list[tuple[list[Tensor], bool]] = []
        for slot in (slot for slots in self._slots for slot in slots):
            gradients = [weight.grad for weight in slot if weight.grad is not None]
            if not gradients:
                continue
            stacked = id(slot[0]) in self._stacked
            found.append((gradients, stacked))
            if stacked:
                norms.append(torch.linalg.vector_norm(gradients[0].flatten(1), dim=1))
            else:
                norms.append(torch.stack([torch.linalg.vector_norm(each) for each in gradients]))
        factors = (largest / (torch.linalg.vector_norm(torch.stack(norms), dim=0) + 1e-6)).clamp(max=1.0)  # (M,)
        for gradients, stacked in found:
            if stacked:
                gradients[0].mul_(factors.view(-1, *[1] * (gradients[0].ndim - 1)))
            else:
                for gradient, factor in zip(gradients, factors, strict=True):
                    gradient.mul_(factor)

    def state_of(self, member: int) -> dict[str, Any]:
        """Returns the state that the optimizer of a member's own run would have; its tensors are views.

        Args:
            member: index of the member.
        """
        state: dict[int, dict[str, Any]] = {}
        groups: list[dict[str, Any]] = []
        count = 0
        for group, slots in zip(self.optimizer.param_groups, self._slots, strict=True):
            numbers = list(range(count, count + len(slots)))
            count += len(slots)
            groups.append({**{name: value for name, value in group.items() if name != "params"}, "params": numbers})
            for number, slot in zip(numbers, slots, strict=True):
                weight, stacked = self._weight_of(slot, member)
                found = self.optimizer.state.get(weight, {})
                own = {
                    name: value[member] if stacked and isinstance(value, Tensor) and value.ndim else value
                    for name, value in found.items()
                }
                if own:
                    state[number] = own
        return {"state": state, "param_groups": groups}

    def load_states(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Loads the states of the members' own runs.

        Args:
            states: the state of each member's optimizer, as `state_of` returns it.
        """
        state: dict[int, dict[str, Any]] = {}
        groups: list[dict[str, Any]] = []
        count, number = 0, 0
        for group, slots in zip(states[0]["param_groups"], self._slots, strict=True):
            begin = count
            for slot in slots:
                found = [each["state"].get(number, {}) for each in states]
                number += 1
                if id(slot[0]) in self._stacked:
                    found = [_together(found)]
                for each in found:
                    if each:
                        state[count] = dict(each)
                    count += 1
            groups.append({**group, "params": list(range(begin, count))})
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _weight_of(self, slot: list[nn.Parameter], member: int) -> tuple[nn.Parameter, bool]:
        """Returns the parameter of a slot that a member's weights are in, and whether it is the stack's.

        Args:
            slot: the stack's parameter, or one for each member.
            member: index of the member.
        """
        stacked = id(slot[0]) in self._stacked
        return slot[0 if stacked else member], stacked


def _together(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the states of one parameter of each member as that of the stack's; counts of steps are equal."""
    return {
        name: torch.stack([state[name] for state in states]) if isinstance(value, Tensor) and value.ndim else value
        for name, value in states[0].items()
    }
