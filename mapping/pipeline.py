"""The stages in order; the only file that knows them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from has8 import fused
from has8.calibrate import calibrate
from has8.errors import BadInput, TraceError
from mapping.allocate import allocate
from mapping.evaluate import evaluate
from mapping.ir import Graph
from mapping.mapped import Mapped
from mapping.partition import cut
from mapping.passes import run_passes
from mapping.place import place
from mapping.quantize import quantize
from mapping.target import Target, load_target, weight_grid
from mapping.trace import trace


def map_model(
    model: nn.Module,
    target: str | Path | Target = "loihi",
    partition: str | Sequence[str] = "all",
    *,
    calibration: Tensor | None = None,
    input_shape: Sequence[int] | None = None,
    weight_bits: int = 8,
    provenance: Mapping[str, Any] | None = None,
) -> Mapped:
    """Map a model onto a chip: trace, rewrite, cut, quantise, tile, place.

    Args:
        model: any model whose layers :mod:`mapping.ops` lists; it is not changed.
        target: a bundled target's name, the path of a YAML file, or a target.
        partition: "all" (everything that the chip can run), "none", or names of chip segments.
        calibration: images ``float32[N, C, H, W]`` for encoders whose range training never
            tracked; also gives the input shape.
        input_shape: of one sample, ``(C, H, W)``; needed only without ``calibration``.
        weight_bits: bits of a stored weight, one that the target stores.
        provenance: JSON-able facts to keep beside the model's configuration and the options.

    Returns:
        The mapping; :func:`mapping.save` keeps it, :func:`hwsim.simulate` runs it.

    Raises:
        TraceError: if the model cannot be turned into a graph.
        UnknownName, TargetError: if the target cannot be read.
        BadInput: if an option is out of range or no input shape is known.
        DoesNotFit: if a layer fits on no core, however it is tiled.
    """
    chip = target if isinstance(target, Target) else load_target(target)
    weight_grid(chip.registers, weight_bits, chip.registers.sign_modes[0])  # refuses other widths
    model = calibrate(deepcopy(model), calibration)
    shape = _shape(calibration, input_shape)
    traced = trace(model, shape)
    _check_traced(traced, model, calibration, shape)
    graph = run_passes(traced)
    segments = cut(graph, chip.registers, partition)
    quantized = [
        quantize(graph, segment, chip.registers, weight_bits=weight_bits)
        for segment in segments.chip
    ]
    chips = tuple(segment for segment, _ in quantized)
    errors = {name: error for _, found in quantized for name, error in found.items()}
    placement = place(allocate(chips, chip), chips, chip)
    facts = {
        "has8": version("has8"),
        "model": getattr(model, "config", {"name": type(model).__name__}),
        "partition": partition if isinstance(partition, str) else list(partition),
        "weight_bits": weight_bits,
        **(provenance or {}),
    }
    return Mapped(graph, segments, chips, errors, placement, chip, facts)


def _check_traced(
    graph: Graph, model: nn.Module, images: Tensor | None, shape: tuple[int, ...]
) -> None:
    """The graph must compute what the model does: hooks, say, are not part of a trace.

    Raises:
        TraceError: if it does not.
    """
    x = torch.linspace(0, 1, prod(shape)).view(1, *shape) if images is None else images[:4]
    with torch.no_grad(), fused.plain():
        expected = model(x)
    if not torch.allclose(evaluate(graph, x), expected, rtol=1e-4, atol=1e-4):
        raise TraceError(
            f"the traced graph of {type(model).__name__} does not compute what the model does: "
            f"its forward does something that tracing does not see, such as a hook"
        )


def _shape(calibration: Tensor | None, input_shape: Sequence[int] | None) -> tuple[int, ...]:
    if input_shape is not None:
        return tuple(input_shape)
    if calibration is None:
        raise BadInput("the input shape is not known: pass calibration images or input_shape")
    return tuple(calibration.shape[1:])
