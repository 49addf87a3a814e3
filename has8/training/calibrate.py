"""Freezing the encoders' ranges, so that inference is static."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from has8 import given
from has8.encoders import BitPlaneEncoder
from has8.encoders.ranges import check_numbers
from has8.errors import BadInput
from has8.values import value, whole


def calibrate(
    model: nn.Module, x: Tensor | None = None, *, remeasure: bool = False, batch_size: int = 256
) -> nn.Module:
    """Freeze the range of every encoder, in place; the model is left in evaluation mode.

    Ranges that training tracked are kept, since the weights were trained with them. The others
    are set to the minimum and maximum that ``x`` produces.

    Args:
        model: any model with :class:`~has8.encoders.BitPlaneEncoder` modules.
        x: images ``[N, C, H, W]`` in [0, 1] that stand for the data; needed only for encoders
            that training never tracked.
        remeasure: whether to measure all ranges on ``x`` anew.
        batch_size: images in one forward pass.

    Returns:
        The same model.

    Raises:
        BadInput: if a range has to be measured and ``x`` is None or empty, the model cannot take
            it, or what an encoder sees is not a number.
    """
    given.instance(model, nn.Module, "a model")
    remeasure = value(remeasure, bool, "remeasure")
    batch_size = whole(batch_size, "batch_size", 1)
    if x is not None:
        x = given.images(x, what="calibration images")
    encoders = [m for m in model.modules() if isinstance(m, BitPlaneEncoder)]
    measure = [e for e in encoders if remeasure or not e.tracked]
    model.eval()
    if measure:
        if x is None:
            raise BadInput(
                f"{len(measure)} encoder ranges were never tracked in training: "
                f"pass images to calibrate them on"
            )
        _measure(model, measure, x, batch_size)
    for encoder in encoders:
        encoder.frozen.fill_(True)
    return model


def _measure(model: nn.Module, encoders: list[BitPlaneEncoder], x: Tensor, batch_size: int) -> None:
    """Let each encoder widen its range to what it sees; an error leaves the ranges as they were."""

    def widen(encoder: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(encoder, BitPlaneEncoder)
        check_numbers(inputs[0], encoder.coding)  # before the range is lost
        lo, hi, seen = encoder.lo.clone(), encoder.hi.clone(), bool(encoder.tracked)
        encoder.track(inputs[0], momentum=1.0)
        if seen:
            encoder.lo.copy_(torch.minimum(lo, encoder.lo))
            encoder.hi.copy_(torch.maximum(hi, encoder.hi))

    before = [(buffer, buffer.clone()) for e in encoders for buffer in (e.lo, e.hi, e.tracked)]
    for encoder in encoders:
        encoder.tracked.fill_(False)
    hooks = [e.register_forward_pre_hook(widen) for e in encoders]
    try:
        with torch.no_grad(), given.taking(x.shape[1:]):
            for batch in x.split(batch_size):
                model(batch.to(encoders[0].lo, copy=True))  # a forward may write over its input
    except BaseException:
        for buffer, old in before:
            buffer.copy_(old)
        raise
    finally:
        for hook in hooks:
            hook.remove()
