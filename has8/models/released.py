"""Weights of the authors' released HAS-8 code (Luu 2025) for our models in paper mode."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from has8.encoders import PaperBitPlaneEncoder
from has8.errors import BadInput, CheckpointError
from has8.models.has8_resnet import HAS8ResNet
from has8.models.has8_vgg import HAS8VGG


def released_state_dict(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The released code's ``state_dict`` under our names, for ``model.load_state_dict``.

    The loaded model gives the same logits but for what docs/numerics.md lists below its table.
    Set ``slope``, ``rescale`` and ``decoder`` to what the weights were trained with, which a
    ``state_dict`` does not tell.

    Args:
        state: the ``state_dict`` of the released ``HAS8VGG`` or of ``HAS8ResNet`` with basic
            blocks, as ``torch.load(path, weights_only=True)`` reads it.
        model: a has8_vgg or has8_resnet with ``mode="paper"``, the same widths, and no ``mean``.

    Returns:
        A value for each key of ``model.state_dict()``: the tensors of ``state``, not copied, and
        the model's own constants of its neurons, which the released code keeps elsewhere.

    Raises:
        BadInput: if the model is another one, or in the other mode.
        CheckpointError: naming the first key that is missing, of another shape, or left over.
    """
    _check(model)
    own = model.state_dict()
    names = {key: _released_name(key, model) for key in own if ".neuron." not in key}
    for key, name in names.items():
        shape = tuple(state[name].shape) if name in state else "missing"
        if shape != tuple(own[key].shape):
            raise CheckpointError(
                f"the released weight {name!r} is {shape} and the model needs "
                f"{tuple(own[key].shape)} for {key!r}: build it with the widths, depth and "
                "classes that the weights were trained with"
            )
    known = set(names.values())
    for name in state:
        if name not in known:
            raise CheckpointError(
                f"the released weight {name!r} has no place in the model: build it with the "
                "depth that the weights were trained with"
            )
    return {**own, **{key: state[name] for key, name in names.items()}}


def _check(model: nn.Module) -> None:
    if not isinstance(model, HAS8VGG | HAS8ResNet):
        raise BadInput(
            f"released weights are for has8_vgg and has8_resnet, not for a {type(model).__name__}"
        )
    if not any(isinstance(module, PaperBitPlaneEncoder) for module in model.modules()):
        raise BadInput("released weights need a model in their mode: build it with mode='paper'")
    if not isinstance(model.image, nn.Identity):
        raise BadInput("released models do not normalise images: build it without mean and std")


def _released_name(key: str, model: nn.Module) -> str:
    """What the released code calls our ``key``; its neurons and encoders hold no tensors."""
    match key.split("."):
        case ["blocks", block, "ann", *rest]:
            name = ["dv", block, "adv_block.adv", *rest]
        case ["blocks", block, "snn", "synapses", *rest]:
            name = ["dv", block, "sdv_block.sdv", *rest]
        case ["head", "ann", *rest]:
            name = ["dv", _head_number(model), "adv_block.adv", *rest]
        case ["head", "snn", layer, "synapses", "0", leaf]:  # a neuron follows each layer
            name = ["dv", _head_number(model), "sdv_block.sdv", str(2 * int(layer)), leaf]
        case ["stem", "ann", *rest]:
            name = ["init_conv.ann_init_conv.init_conv", *rest]
        case ["stem", "snn", "synapses", *rest]:
            name = ["init_conv.snn_init_conv.init_conv", *rest]
        case ["stages", stage, block, "ann", *rest]:
            name = [f"layer{int(stage) + 1}", block, "ann_basic_block", *rest]
        case ["stages", stage, block, "snn", "downsample", "synapses", *rest]:
            name = [f"layer{int(stage) + 1}", block, "snn_basic_block.downsample", *rest]
        case ["stages", stage, block, "snn", conv, "synapses", part, leaf]:
            layer = conv if part == "0" else conv.replace("conv", "bn")
            name = [f"layer{int(stage) + 1}", block, "snn_basic_block", layer, leaf]
        case _:  # the ResNet's classifier
            return key
    return ".".join(name)


def _head_number(model: nn.Module) -> str:
    """The head's number: it comes behind the blocks, the pooling and the flattening."""
    assert isinstance(model, HAS8VGG)
    return str(len(model.blocks) + 2)
