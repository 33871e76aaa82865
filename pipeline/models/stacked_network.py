"""Stacked networks: M networks of one architecture as a single module, whose parameters are [M, ...].

A batch of a stack has the images of all members one after another, (M * B, C, height, width). Everything that handles
image by image, such as the fused attention and the taps, works on it unchanged. Only the modules that have parameters
or that draw random numbers are exchanged: a linear layer becomes M products of matrices in one call, and random draws
are made member by member, each from its own stream.

The members remain networks of their own: their parameters become views of the stack's. A member can therefore be
scored and stored at any time, and loading weights into a member changes the stack.

Shapes: M members, B images of each, T tokens, D channels.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CannotStack(ValueError):
    """Raised for training that cannot be stacked. The message is a clause that says why, for the end of a sentence."""


class MemberStreams:
    """A random stream for each member, in place of torch's global one.

    A member's stream gives the draws of a run of that member alone, which seeds the global stream with the same number.

    Args:
        members: number of members.
        device: device of the draws.
    """

    def __init__(self, members: int, device: torch.device) -> None:
        self.generators = [torch.Generator(device) for _ in range(members)]
        self._device = device

    def seed(self, seeds: Sequence[int]) -> None:
        """Seeds the members' streams.

        Args:
            seeds: a number for each member, as for `torch.manual_seed`.
        """
        for generator, seed in zip(self.generators, seeds, strict=True):
            generator.manual_seed(seed)

    @contextmanager
    def of_member(self, member: int) -> Iterator[None]:
        """Makes a member's stream torch's global one inside the `with` block, for code that draws from that.

        Args:
            member: index of the member.
        """
        shared, own = _global_stream(self._device), self.generators[member]
        kept = shared.get_state()
        shared.set_state(own.get_state())
        try:
            yield
        finally:
            own.set_state(shared.get_state())
            shared.set_state(kept)

    def __deepcopy__(self, memo: object) -> "MemberStreams":
        """Returns the streams themselves, since a copy of a network, such as an average, draws nothing of its own."""
        return self


def _global_stream(device: torch.device) -> torch.Generator:
    """Returns the generator that torch draws from on a device if none is given."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator


def stack_networks(members: Sequence[nn.Module]) -> nn.Module:
    """Returns the stack of some networks, whose parameters become views of the stack's.

    The stack has the modules and the parameters' names of its members, so that taps find what they look for. It begins
    in the mode of the first member. Its forward pass takes (M * B, C, height, width).

    Args:
        members: networks of one architecture on one device, without hooks; their parameters are changed to views.

    Raises:
        CannotStack: a network whose modules are of other kinds than those that a stack knows.
    """
    first, device = members[0], next(members[0].parameters()).device
    check_stackable(first)
    streams = MemberStreams(len(members), device)
    stack = copy.deepcopy(first)
    for module in stack.modules():
        if (stacked := _stacked_classes().get(type(module))) is not None:
            module.__class__ = stacked
            module.members, module.streams = len(members), streams  # type: ignore[assignment]
    for name, parameter in first.named_parameters():
        each = [member.get_parameter(name).detach() for member in members]
        owner, _, own_name = name.rpartition(".")
        together = nn.Parameter(torch.stack(each), requires_grad=parameter.requires_grad)
        stack.get_submodule(owner)._parameters[own_name] = together
    share_parameters(stack, members)
    return stack


def share_parameters(stack: nn.Module, members: Sequence[nn.Module]) -> None:
    """Makes the parameters of some networks views of a stack's, so that each has the weights of its member.

    Args:
        stack: a stack.
        members: a network for each member, in order.
    """
    for name, parameter in stack.named_parameters():
        for index, member in enumerate(members):
            member.get_parameter(name).data = parameter.data[index]


def release_parameters(members: Sequence[nn.Module]) -> None:
    """Gives networks parameters of their own again, with the same values.

    Args:
        members: networks whose parameters are views of a stack's.
    """
    for member in members:
        for parameter in member.parameters():
            parameter.data = parameter.data.clone()


def streams_of_stack(stack: nn.Module) -> MemberStreams:
    """Returns the random streams of a stack's members.

    Args:
        stack: a stack.
    """
    streams: MemberStreams = stack.streams  # type: ignore[assignment]
    return streams


def check_stackable(model: nn.Module) -> None:
    """Checks that a stack can compute what a network does.

    Args:
        model: the network.

    Raises:
        CannotStack: it has a module of another kind, or one with options that a stack does not know.
    """
    from timm.layers import DropPath, LayerScale, PatchEmbed  # type: ignore[attr-defined, unused-ignore]
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import Attention, VisionTransformer  # type: ignore[attr-defined]

    network: Any = model
    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        raise CannotStack(f"only networks of timm's VisionTransformer are stacked, and this is a {_name(model)}")
    if network.dynamic_img_size:
        raise CannotStack("a stack takes images of one size (no dynamic_img_size)")
    if any(True for _ in model.buffers()):
        raise CannotStack("the network has buffers")
    known = {*_stacked_classes(), *_plain_classes()}
    for module in model.modules():
        if type(module) not in known:
            raise CannotStack(f"the network has a {_name(module)}, which cannot be stacked")
        if isinstance(module, Attention) and module.attn_drop.p:
            raise CannotStack("dropout inside attention (attn_drop_rate) has one random stream for all images")
        if isinstance(module, LayerScale | DropPath) and getattr(module, "inplace", False):
            raise CannotStack(f"the network has a {_name(module)} that works in place")
        if isinstance(module, nn.Conv2d) and not _is_patch_projection(module):
            raise CannotStack("the network has a convolution other than the one that makes patches")
    if not isinstance(network.patch_embed, PatchEmbed) or type(network.patch_embed.proj) is not nn.Conv2d:
        raise CannotStack("the network does not make its patches by one convolution")


def _is_patch_projection(layer: nn.Conv2d) -> bool:
    """Returns whether a convolution is a linear map of patches that do not overlap."""
    plain = layer.padding == (0, 0) and layer.dilation == (1, 1) and layer.groups == 1
    return plain and tuple(layer.kernel_size) == tuple(layer.stride)


def _name(module: nn.Module) -> str:
    return type(module).__name__


class _Member(nn.Module):
    """Base of the modules of a stack.

    Attributes:
        members: number of members, M.
        streams: their random streams.
    """

    members: int
    streams: MemberStreams

    def by_member(self, inputs: Tensor) -> Tensor:
        """Returns a view (M, B, ...) of a tensor (M * B, ...)."""
        found: Tensor = inputs.unflatten(0, (self.members, -1))  # type: ignore[no-untyped-call, unused-ignore]
        return found


class StackedLinear(_Member, nn.Linear):
    """M linear layers: weight (M, O, I), bias (M, O)."""

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(self.members, -1, inputs.shape[-1])
        return self.products(rows, self.weight, self.bias).view(*inputs.shape[:-1], -1)

    def products(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Returns the layers' outputs (M, N, O), as `linear_maps` does.

        Args:
            rows: (M, N, I).
            weight: (M, O, I).
            bias: (M, O); None: none.
        """
        return linear_maps(rows, weight, bias)


def linear_maps(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns M linear maps in one call, (M, N, O).

    Args:
        rows: (M, N, I).
        weight: (M, O, I).
        bias: (M, O); None: none.
    """
    if bias is None:
        return torch.bmm(rows, weight.mT)
    return torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)


class _StackedPatches(_Member, nn.Conv2d):
    """M convolutions that make patches: weight (M, D, C, h, w), bias (M, D)."""

    def forward(self, inputs: Tensor) -> Tensor:
        images, channels, _, _ = inputs.shape
        height, width = self.kernel_size
        rows, columns = inputs.shape[2] // height, inputs.shape[3] // width
        whole = inputs[:, :, : rows * height, : columns * width]
        patches = whole.reshape(images, channels, rows, height, columns, width).permute(0, 2, 4, 1, 3, 5)
        flat = patches.reshape(self.members, -1, channels * height * width)
        made = linear_maps(flat, self.weight.flatten(2), self.bias)
        return made.view(images, rows, columns, -1).permute(0, 3, 1, 2)


class _StackedNorm(_Member, nn.LayerNorm):
    """M layer norms: weight and bias (M, D)."""

    def forward(self, inputs: Tensor) -> Tensor:
        if self.weight is None:
            return F.layer_norm(inputs, self.normalized_shape, None, None, self.eps)
        if inputs.device.type == "cpu":  # there, passes over memory decide the time, and this takes fewer of them
            biases = [None] * self.members if self.bias is None else self.bias.unbind()
            each = zip(self.by_member(inputs).unbind(), self.weight.unbind(), biases, strict=True)
            return torch.cat([F.layer_norm(x, self.normalized_shape, w, b, self.eps) for x, w, b in each])
        return self.folded(inputs)

    def folded(self, inputs: Tensor) -> Tensor:
        """Returns the norms of all members' inputs by one call."""
        normalised = F.layer_norm(inputs, self.normalized_shape, None, None, self.eps)
        lead = self.by_member(normalised)
        scaled = lead * spread(self.weight, lead)
        if self.bias is not None:
            scaled = scaled + spread(self.bias, lead)
        return scaled.to(normalised.dtype).flatten(0, 1)


class _StackedScale(_Member):
    """M layer scales: gamma (M, D)."""

    gamma: nn.Parameter

    def forward(self, inputs: Tensor) -> Tensor:
        lead = self.by_member(inputs)
        return (lead * spread(self.gamma, lead)).flatten(0, 1)


def spread(weights: Tensor, images: Tensor) -> Tensor:
    """Returns weights (M, D) as a view that broadcasts to images (M, B, ..., D)."""
    return weights.view(len(weights), *[1] * (images.ndim - 2), -1)


class _StackedDropPath(_Member):
    """Stochastic depth with each member's own draws."""

    drop_prob: float
    scale_by_keep: bool

    def forward(self, inputs: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return inputs
        keep = 1 - self.drop_prob
        shape = (len(inputs) // self.members, *[1] * (inputs.ndim - 1))
        kept = torch.cat([inputs.new_empty(shape).bernoulli_(keep, generator=g) for g in self.streams.generators])
        if keep > 0.0 and self.scale_by_keep:
            kept.div_(keep)
        return inputs * kept


class _StackedDropout(_Member, nn.Dropout):
    """Dropout with each member's own draws."""

    def forward(self, inputs: Tensor) -> Tensor:
        if self.p == 0.0 or not self.training:
            return inputs
        dropped = []
        for member, own in enumerate(self.by_member(inputs).unbind()):
            with self.streams.of_member(member):
                dropped.append(F.dropout(own, self.p, training=True))
        return torch.cat(dropped)


TOKENS = ("cls_token", "dist_token", "reg_token", "pos_embed")
"""Parameters that a Vision Transformer itself has; each is one tensor for all images of a batch."""


class _StackedTransformer(_Member):
    """Mixin of Vision Transformers: each image gets the tokens and the position embedding of its member."""

    def _pos_embed(self, patches: Tensor) -> Tensor:
        own = {name: self._parameters[name] for name in TOKENS if self._parameters.get(name) is not None}
        try:
            for name, parameter in own.items():
                assert parameter is not None
                images = len(patches) // self.members
                self._parameters[name] = parameter.expand(-1, images, -1, -1).flatten(0, 1)  # type: ignore[assignment]
            embedded: Tensor = super()._pos_embed(patches)  # type: ignore[misc]
            return embedded
        finally:
            self._parameters.update(own)


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def _stacked_classes() -> dict[type[nn.Module], type[nn.Module]]:
    """Returns the classes of modules that have parameters or draw random numbers, with the stacked class of each."""
    if not _CLASSES:
        from timm.layers import DropPath, LayerNorm, LayerScale  # type: ignore[attr-defined, unused-ignore]
        from timm.models.deit import VisionTransformerDistilled
        from timm.models.vision_transformer import LayerScale as BlockScale  # type: ignore[attr-defined]
        from timm.models.vision_transformer import VisionTransformer

        _CLASSES.update({nn.Linear: StackedLinear, nn.Conv2d: _StackedPatches, nn.Dropout: _StackedDropout})
        _CLASSES.update({nn.LayerNorm: _StackedNorm, LayerNorm: _StackedNorm})
        for base, mixin in (
            (DropPath, _StackedDropPath),
            (LayerScale, _StackedScale),
            (BlockScale, _StackedScale),
            (VisionTransformer, _StackedTransformer),
            (VisionTransformerDistilled, _StackedTransformer),
        ):
            _CLASSES[base] = type(f"Stacked{base.__name__}", (mixin, base), {})
    return _CLASSES


def _plain_classes() -> set[type[nn.Module]]:
    """Returns the classes of modules that treat every image by itself and have no parameters of their own."""
    from timm.layers import GluMlp, Mlp, PatchEmbed, SwiGLU  # type: ignore[attr-defined, unused-ignore]
    from timm.layers.activations import GELU, GELUTanh, QuickGELU
    from timm.models.vision_transformer import Attention, Block  # type: ignore[attr-defined]

    from .last_block import NoSkipBlock

    parts = {Attention, Block, NoSkipBlock, Mlp, GluMlp, SwiGLU, PatchEmbed, nn.Identity, nn.Sequential}
    return parts | {GELU, GELUTanh, QuickGELU, nn.GELU, nn.ReLU, nn.SiLU, nn.Tanh, nn.Sigmoid}
