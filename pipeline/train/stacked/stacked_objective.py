"""The objective of a stack: every member's own objective, on features that one forward pass of the stack gives.

Shapes: M members, B images of each, C channels, K classes.
"""

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from pipeline.models.precision import without_autocast
from pipeline.models.stacked_network import streams_of_stack
from pipeline.regularizers.base import Features, RegularizerOutput, at_least_float32
from pipeline.regularizers.features import Collector
from pipeline.train.objective import Objective, StepLoss, Tapped


class StackedObjective(Tapped):
    """The objectives of a stack's members, whose losses add up, so that each member has the gradient of its own.

    Args:
        stack: the stack.
        members: the members' objectives, in order; they have the same methods.
    """

    def __init__(self, stack: nn.Module, members: Sequence[Objective]) -> None:
        super().__init__()
        self._stack, self._members = stack, members
        self._streams = streams_of_stack(stack)
        self.trainable = nn.ModuleList(member.trainable for member in members)
        try:
            for name, method in members[0].methods.items():
                self._collectors[name] = Collector(stack, method.needs)
        except ValueError:
            self.close()
            raise

    def step(self, inputs: Tensor, labels: Tensor, epoch: int, masks: Tensor | None = None) -> StepLoss:
        """Runs the forward pass of one training batch of each member and returns the sum of their losses.

        Args:
            inputs: (M, B, C, height, width).
            labels: (M, B) int64, or (M, B, K) as shares that already include the label smoothing.
            epoch: counted from 0.
            masks: (M, B, height, width), for methods that need them; None: no method does.

        Returns:
            The loss, with the logits (M, B, K), and the monitors as one value for each member, (M,).
        """
        members, count = self._members, len(self._members)
        weights = members[0].weights(epoch)
        for name, weight in weights.items():
            self._collectors[name].expect(weight != 0.0)
        images = inputs.flatten(0, 1)
        logits = self._stack(images)
        losses = members[0].cross_entropy(at_least_float32(logits), labels.flatten(0, 1), reduction="none")
        total = losses.unflatten(0, (count, -1)).mean(1)  # type: ignore[no-untyped-call, unused-ignore]
        monitors = {"cross_entropy": total.detach()}
        for name, weight in weights.items():
            if weight == 0.0:
                continue
            with without_autocast(images.device):
                features = self._collectors[name].features(images, None if masks is None else masks.flatten(0, 1))
                output = members[0].methods[name].of_members(features, count)
            if output is None:
                output = self._one_by_one(name, features)
            total = torch.add(total, output.loss, alpha=weight)
            monitors |= {f"{name}/{key}": value for key, value in output.monitors.items()}
        self._forget()
        monitors["loss"] = total.detach()
        return StepLoss(total.sum(), logits.detach().unflatten(0, (count, -1)), monitors)

    def _one_by_one(self, name: str, features: Features) -> RegularizerOutput:
        """Returns what each member's own method computes of its part of the features: losses and monitors, (M,).

        Args:
            name: the method's name.
            features: features of the batches of all members.
        """
        outputs = []
        for index, own in enumerate(split_features(features, len(self._members))):
            with self._streams.of_member(index):  # some methods draw
                outputs.append(self._members[index].evaluate(name, own))
        monitors = {key: torch.stack([each.monitors[key] for each in outputs]) for key in outputs[0].monitors}
        return RegularizerOutput(torch.stack([each.loss for each in outputs]), monitors)


def split_features(features: Features, members: int) -> list[Features]:
    """Returns the features of each member.

    Args:
        features: features of a stack's batch, whose images are the members' one after another.
        members: number of members.
    """
    split: list[dict[str, Tensor]] = [{} for _ in range(members)]
    for each in fields(features):
        found: Tensor | None = getattr(features, each.name)
        if found is not None:
            # By `unbind`, the backward pass puts the members' gradients together once; slices would add M of them up.
            parts = found.unflatten(0, (members, -1)).unbind()  # type: ignore[no-untyped-call, unused-ignore]
            for own, part in zip(split, parts, strict=True):
                own[each.name] = part
    return [Features(**own) for own in split]
