"""Two-dimensional convolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from has8.kernels.conv import Conv2d
from mapping.graph.ir import Kind, Node, TensorType
from mapping.graph.ops.op import Lowered, Op, pair, parameters, window


def lower(module: nn.Conv2d) -> Lowered:
    """Stride, padding, dilation ([H, W] each), groups; weight ``[O, I/groups, kH, kW]``, bias."""
    if module.padding_mode != "zeros":
        raise ValueError(f"padding mode {module.padding_mode!r} is not supported, only 'zeros'")
    dilation, kernel = pair(module.dilation), pair(module.kernel_size)
    if module.padding == "valid":
        padding = [0, 0]
    elif module.padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(r % 2 for r in reach):
            raise ValueError("padding='same' with an even kernel is not symmetric; pad explicitly")
        padding = [r // 2 for r in reach]
    else:
        padding = pair(module.padding)
    attrs = {
        "stride": pair(module.stride),
        "padding": padding,
        "dilation": dilation,
        "groups": module.groups,
    }
    return attrs, parameters(module, "weight", "bias")


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[TensorType, ...]
) -> TensorType:
    """``(C, H, W) -> (O, H', W')``."""
    (given,) = inputs
    weight = tensors["weight"]
    if len(given.shape) != 3 or given.shape[0] != weight.shape[1] * attrs["groups"]:
        raise ValueError(
            f"it takes images of {weight.shape[1] * attrs['groups']} channels, not {given}"
        )
    extents = [
        window(given.shape[1 + a], weight.shape[2 + a], *(attrs[k][a] for k in _WINDOW))
        for a in (0, 1)
    ]
    return TensorType((weight.shape[0], *extents), Kind.VALUE, given.steps)


_WINDOW = ("stride", "padding", "dilation")


def run(node: Node, x: Tensor) -> Tensor:
    """Float convolution of ``[B, C, H, W]``."""
    return F.conv2d(
        x,
        node.tensors["weight"],
        node.tensors.get("bias"),
        node.attrs["stride"],
        node.attrs["padding"],
        node.attrs["dilation"],
        node.attrs["groups"],
    )


OPS = (Op("conv2d", (nn.Conv2d, Conv2d), lower, infer, run, role="synapse"),)
