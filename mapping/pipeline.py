"""The stages in order; the only file that knows them all."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from has8 import given
from has8.encoders import SeededBernoulli
from has8.errors import BadInput, DoesNotFit, Has8Error, TraceError
from has8.kernels import paths
from has8.plain import plain
from has8.training.calibrate import calibrate
from has8.values import described, value, whole
from mapping.chip.grid import default_bits, stored_bits
from mapping.chip.segment import ChipSegment
from mapping.cores.allocate import Tile, allocate
from mapping.cores.columns import check_compiled, columns
from mapping.cores.descent import descend
from mapping.cores.flows import flows_of
from mapping.cores.placement import Placement, place, seated
from mapping.cores.spread import spread
from mapping.graph.evaluate import evaluate
from mapping.graph.ir import Graph, Kind, Signal
from mapping.graph.passes import run_passes
from mapping.graph.repeats import measured, repeat_last
from mapping.graph.resets import reset_to_zero
from mapping.graph.trace.modules import SymbolsFail, trace
from mapping.graph.trace.steps import StepsOnAxis, listed, loops, trace_steps
from mapping.graph.verify import verify_graph
from mapping.integers.methods import METHODS, Method
from mapping.integers.quantize import Rounded, quantize
from mapping.integers.rounding import Scale, Scales, kept, layer_of
from mapping.integers.scales import unclipped
from mapping.integers.search import search_scales
from mapping.mapped import Mapped
from mapping.partition.biases import biases_as_neurons
from mapping.partition.cut import cut
from mapping.partition.grading import Users, gradable, graded, ungraded
from mapping.partition.membranes import last_membranes
from mapping.partition.packing import Coding, packed, unpacked
from mapping.partition.pins import Pins
from mapping.partition.rules import layer_with
from mapping.partition.segments import Partition, Side
from mapping.targets.schema import Registers, Target, load_target
from mapping.verify import check_mapped

Given = Literal["values", "steps", "spikes"]
"""What a model takes: values, values in each step, or spikes in each step."""
Reset = Literal["trained", "zero"]
"""Each neuron's reset as it was trained, or to zero."""
Placing = Literal["descent", "snake"]
"""Cores where their messages have short ways, or along a snake in the order of the layers."""
Allocation = Literal["cores", "latency", "energy", "intel"]
"""What cores are dealt out for, or by whose rules."""
CHECKED = 16
"""Samples of a model with a loop on which the graph is held against it."""


def map_model(
    model: nn.Module | Graph,
    target: str | Path | Target = "loihi",
    partition: str | Sequence[str] = "all",
    *,
    pins: Pins | None = None,
    calibration: Tensor | None = None,
    input_shape: Sequence[int] | int | None = None,
    weight_bits: int | None = None,
    scales: Method | Scales = "round",
    per_channel: bool = False,
    inputs: Given = "values",
    output: int = 0,
    reset: Reset = "trained",
    allocation: Allocation = "cores",
    placement: Placing = "descent",
    placement_seed: int = 0,
    coding: Coding = "binary",
    on_progress: Callable[[int, int], None] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Mapped:
    """Map a model onto a chip: trace, rewrite, cut, quantise, tile, place.

    Args:
        model: any model whose layers :mod:`mapping.graph.ops` lists, or one with snnTorch's neurons
            and a loop over the steps in its forward; it is not changed. Or a graph from
            :func:`mapping.load_model`, which knows its inputs and has one output.
        target: a bundled target's name, the path of a YAML file, or a target.
        partition: "all" (everything that the chip can run), "none", or names of chip segments or of
            layers.
        pins: layers to have on one side, ``{"fc1": "host", "blocks.*": "chip"}``, by the name of a
            node or a module around it or a wildcard; the last of several that fit rules, and all
            rule over ``partition``. A layer that fits on no core stays on the host by itself
            unless it is pinned to the chip. The layers of a loop over steps go together.
        calibration: images ``float32[N, C, H, W]`` for encoders whose range training never
            tracked; also gives the input shape, and is what scales are searched on.
        input_shape: of one sample, ``(C, H, W)``, or a number of values; needed only without
            ``calibration``.
        weight_bits: bits of a weight, 1 to the widest that the target stores; None for 8, or for
            the widest where that is less.
        scales: "round" takes the largest at which nothing is clipped; "search" those that change
            the fewest spikes on the calibration images (a few hundred; seconds for each layer);
            or the scale of each population by name, as fine-tuning froze them.
        per_channel: whether a search may give channels different thresholds, as many as a core
            has.
        inputs: "values" are ``[N, ...]``; "steps" are values of each step, ``[T, N, ...]``;
            "spikes" are 0 or 1 in each step, ``[T, N, ...]``, which a chip takes as they are. Where
            the forward takes its steps off another axis, ``x[:, t]``, samples are the first one,
            ``[N, T, ...]``.
        output: which tensor of several that the model returns.
        reset: "trained" keeps each neuron's; "zero" lets those that were trained to reset by
            subtraction reset to zero, which takes fewer compartments of most chips and computes
            something else: reports say what that alone costs.
        allocation: "cores" takes the fewest cores; "latency" deals out all cores of the chips that
            these need, where that shortens the estimated time of a sample; "energy" those of them
            that lower what chips and messages draw; "intel" cuts as Intel's compiler for Loihi 2
            does (:mod:`mapping.cores.columns`), for targets that it is for.
        placement: "descent" swaps cores until their messages, one for each neuron, pass few
            routers; "snake" puts them in the order of the layers.
        placement_seed: of the descent's random swaps, at least 0.
        coding: "binary" has spikes cross between host and chip one by one; "graded" has what an
            encoder sends or a decoder takes cross once for all steps, as a graded spike that
            neurons on the chip unpack or pack, which computes the same. And values that differ
            from step to step, which otherwise keep the neurons behind them on the host, cross in
            each step, rounded to up to 8 bits as the calibration data tell. Only for targets
            with graded spikes.
        on_progress: called while cores change places with (rounds done, rounds in all).
        provenance: JSON-able facts to keep beside the model's configuration and the options.

    Returns:
        The mapping; :func:`mapping.save` keeps it, :func:`hwsim.simulate` runs it.

    Raises:
        TraceError: if the model cannot be turned into a graph.
        UnknownName, TargetError: if the target cannot be read.
        BadInput: if an option is out of range, no input shape is known, or a layer that is pinned
            to the chip cannot be there; with coding="graded" if the target has no graded spikes
            that hold all steps, or nothing crosses that could be one.
    """
    target = target if isinstance(target, Target) else load_target(target)
    weight_bits = default_bits(target.registers) if weight_bits is None else weight_bits
    weight_bits = value(weight_bits, int, "weight_bits")
    allocation = value(allocation, Allocation, "allocation")
    if allocation == "intel":
        check_compiled(target)
    placement = value(placement, Placing, "placement")
    placement_seed = whole(placement_seed, "placement_seed", 0)
    coding = value(coding, Coding, "coding")
    given.callback(on_progress)
    added = plain(dict(given.provenance(provenance)), "provenance")
    model = model if isinstance(model, Graph) else given.own_copy(model)
    if calibration is not None:
        calibration = given.images(calibration, what="calibration images")
    graph, parts = lower(
        model,
        target,
        partition,
        calibration,
        input_shape,
        inputs=inputs,
        output=output,
        reset=reset,
        pins=pins,
        coding=coding,
        weight_bits=weight_bits,
        given_scales=None if isinstance(scales, str) else scales,
    )
    unfit: dict[str, str] = {}
    known: dict[str, Rounded] = {}
    while True:
        chosen = choose_scales(
            graph, parts, target, calibration, weight_bits, scales, per_channel, known
        )
        whole_graph, whole_parts = (
            packed(graph, parts, target) if coding == "graded" else (graph, parts)
        )
        quantized = [
            quantize(whole_graph, segment, target.registers, weight_bits=weight_bits, scales=chosen)
            for segment in whole_parts.on_chip
        ]
        segments = tuple(integers for integers, _ in quantized)
        try:
            tiles = allocated(segments, target, allocation)
            break
        except DoesNotFit as error:
            unfit[layer_with(graph, error.layer)] = (
                f"it fits on no core: it needs at least {error.need:,} {error.resource} and a core "
                f"has {error.have:,}"
            )
        before = {part.nodes for part in parts.on_chip}
        parts = cut(graph, target.registers, partition, pins, unfit)
        as_before = (part.nodes for part in parts.on_chip if part.nodes in before)
        rounded = ((name, chosen.get(name)) for nodes in as_before for name in nodes)
        known = {name: found for name, found in rounded if isinstance(found, Rounded)}
    errors = {name: error for _, of_segment in quantized for name, error in of_segment.items()}
    on_cores = placed(tiles, segments, target, placement, placement_seed, on_progress)
    facts = {
        "has8": version("has8"),
        "model": name_of(model),
        "partition": partition if isinstance(partition, str) else list(partition),
        **({"pins": dict(pins)} if pins else {}),
        "weight_bits": weight_bits,
        "scales": scales if isinstance(scales, str) else "given",
        "per_channel": per_channel,
        **({} if allocation == "cores" else {"allocation": allocation}),
        **({} if coding == "binary" else {"coding": coding}),
        "placement": placement,
        "placement_seed": placement_seed,
        **added,
    }
    mapped = Mapped(whole_graph, whole_parts, segments, errors, on_cores, target, facts)
    check_mapped(mapped)
    return mapped


def allocated(
    segments: Sequence[ChipSegment], target: Target, allocation: Allocation
) -> tuple[Tile, ...]:
    """The tiles of segments; the arguments are those of :func:`map_model`."""
    if allocation in ("latency", "energy"):
        return spread(segments, target, allocation)
    return (columns if allocation == "intel" else allocate)(segments, target)


def placed(
    tiles: Sequence[Tile],
    segments: Sequence[ChipSegment],
    target: Target,
    placement: Placing,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Placement:
    """Places for the cores of tiles; the arguments are those of :func:`map_model`."""
    on_cores = place(tiles, segments, target)
    if placement == "snake":
        return on_cores
    seats = descend(flows_of(on_cores, segments), target.chip, seed, on_progress)
    return seated(on_cores, seats, target)


def name_of(model: nn.Module | Graph) -> Any:
    """What a model says that it was built by, or its class."""
    return getattr(model, "config", {"name": type(model).__name__})


def lower(
    model: nn.Module | Graph,
    target: Target,
    partition: str | Sequence[str] = "all",
    calibration: Tensor | None = None,
    input_shape: Sequence[int] | int | None = None,
    *,
    inputs: Given = "values",
    output: int = 0,
    reset: Reset = "trained",
    pins: Pins | None = None,
    coding: Coding = "binary",
    weight_bits: int | None = None,
    given_scales: Container[str] | None = None,
    overview: bool = False,
) -> tuple[Graph, Partition]:
    """Calibrate a model in place, trace and rewrite it, and cut the graph between host and chip.

    For an ``overview``, from which nothing is quantised, ranges that only calibration data tell are
    those of an example where there are none. Where scales are given, values cross to those neurons
    alone that these have, by name.

    The arguments and the errors are those of :func:`map_model`.
    """
    partition = value(partition, str | list[str], "partition")
    pins = given.instance({} if pins is None else pins, dict, "pins as a dictionary")
    pins = value(pins, dict[str, Side], "pins")
    reset = value(reset, Reset, "reset")
    graph = run_passes(traced(model, calibration, input_shape, inputs=inputs, output=output))
    if reset == "zero":
        graph = reset_to_zero(graph)
    if calibration is not None or overview:
        x = example(graph.input.type) if calibration is None else calibration
        graph = measured(repeat_last(graph), x)
    registers = target.registers
    graph = last_membranes(graph, registers)
    if coding == "graded" and calibration is not None:
        bits = default_bits(registers) if weight_bits is None else weight_bits
        users = gradable(graph, registers)
        whole = biases_as_neurons(graded(graph, users, registers, bits), registers)
        on_chip = cut(whole, registers, partition, pins).on_chip
        names = {name for part in on_chip for name in part.nodes}
        if given_scales is not None:
            names = {name for name in names if name in given_scales}
        users = {name: users[name] for name in users if name in names}
        graph = _graded(graph, users, registers, bits, calibration)
    graph = biases_as_neurons(graph, registers)
    return graph, cut(graph, registers, partition, pins)


def _graded(
    graph: Graph, users: Users, registers: Registers, bits: int, calibration: Tensor
) -> Graph:
    """The graph with graded values, but for neurons whose weights then are on no grid."""
    whole = graded(graph, users, registers, bits, calibration)
    fitting = dict(users)
    for name in users:
        try:
            unclipped(layer_of(whole, name), name, registers, bits)
        except BadInput:
            del fitting[name]
    if len(fitting) == len(users):
        return whole
    return _graded(graph, fitting, registers, bits, calibration)


def example(signal: Signal) -> Tensor:
    """Values from 0 to 1 of a type, of one sample."""
    steps = () if signal.steps is None else (signal.steps,)
    values = torch.linspace(0, 1, prod((*steps, *signal.shape))).view(*steps, 1, *signal.shape)
    return values.round() if signal.kind is Kind.SPIKE else values


def traced(
    model: nn.Module | Graph,
    calibration: Tensor | None = None,
    input_shape: Sequence[int] | int | None = None,
    *,
    inputs: Given = "values",
    output: int = 0,
) -> Graph:
    """The graph of a model, which is calibrated in place, as it is before any rewriting.

    The arguments and the errors are those of :func:`map_model`.
    """
    inputs, output = value(inputs, Given, "inputs"), whole(output, "output", 0)
    if isinstance(model, Graph):
        return _fitting(ungraded(unpacked(model)), calibration, input_shape, inputs, output)
    if inputs != "values" or loops(model):
        return _trace_loop(model, calibration, input_shape, inputs, output)
    if output:
        raise BadInput(f"a model without snnTorch's neurons has one output, and not one {output}")
    calibrate(model, calibration)
    shape = _shape(calibration, input_shape)
    try:
        graph = trace(model, shape)
    except SymbolsFail as error:
        x = example(Signal(shape)) if calibration is None else calibration
        try:
            graph = trace_steps(model, x, Signal(shape))
        except Has8Error:
            raise error from None
    _check_traced(graph, model, calibration, shape)
    return graph


def takes(graph: Graph) -> Given:
    """What a graph takes."""
    signal = graph.input.type
    if signal.kind is Kind.SPIKE:
        return "spikes"
    return "values" if signal.steps is None else "steps"


def steps_axis(graph: Graph) -> int:
    """The axis of the steps in what a graph takes; 0 too where there is none."""
    users = [user for user, _ in graph.consumers(graph.input.name)]
    return next((int(user.attrs["axis"]) for user in users if user.op == "unbind"), 0)


def _fitting(
    graph: Graph,
    calibration: Tensor | None,
    input_shape: Sequence[int] | int | None,
    inputs: Given,
    output: int,
) -> Graph:
    """A graph that is given as it is, if what else is given fits it."""
    try:
        verify_graph(graph)
    except ValueError as error:
        raise BadInput(f"the graph is not sound: {error}") from None
    signal = graph.input.type
    if inputs not in ("values", takes(graph)) or output:
        raise BadInput(
            f"the network was saved with the inputs {takes(graph)!r} and one output: leave out "
            "inputs and output"
        )
    shape = None if calibration is None else tuple(calibration.shape)
    if shape is not None:
        if signal.steps is not None and shape[:1] != (signal.steps,):
            raise BadInput(
                f"the network takes {signal}, [{signal.steps}, N, ...], and the calibration data "
                f"are of shape {shape}"
            )
        shape = shape[signal.batch_axis + 1 :]
    elif input_shape is not None:
        shape = _shape(None, input_shape)
    if shape not in (None, signal.shape):
        raise BadInput(f"the network takes inputs of shape {signal.shape}, not {shape}")
    return graph


def _trace_loop(
    model: nn.Module,
    calibration: Tensor | None,
    input_shape: Sequence[int] | int | None,
    inputs: Given,
    output: int,
) -> Graph:
    """The graph of a model that loops over its steps, held against the model on other samples.

    A model whose forward takes steps off an axis of its samples, ``x[:, t]``, has samples first.
    """
    if inputs == "values":
        calibrate(model, calibration)
        shape = _shape(calibration, input_shape)
        x = example(Signal(shape)) if calibration is None else calibration
        readings = {False: Signal(shape), True: Signal(shape)}
    else:
        if calibration is None or calibration.dim() < 3 or input_shape is not None:
            raise BadInput(
                f"inputs={inputs!r} needs calibration data [T, N, ...], or [N, T, ...] if the "
                f"forward takes them so, and no input_shape: the steps and the shape are read off "
                f"them"
            )
        calibrate(model)
        x = calibration
        spikes = inputs == "spikes"
        if spikes and not bool(((x == 0) | (x == 1)).all()):
            raise BadInput(
                "inputs='spikes' are 0 or 1 in each step, and the calibration data are not"
            )
        kind = Kind.SPIKE if spikes else Kind.VALUE
        shape = tuple(x.shape)
        readings = {False: Signal(shape[2:], kind, len(x)), True: Signal(shape[1:], kind)}
    refused: TraceError | None = None
    for apart, signal in readings.items():
        try:
            return _followed(model, x, signal, output, apart=apart)
        except StepsOnAxis as error:
            raise TraceError(str(error)) from None
        except TraceError as error:
            refused = refused or error
        except BadInput:
            if refused is None:
                raise
    assert refused is not None
    raise refused


def _followed(model: nn.Module, x: Tensor, signal: Signal, output: int, *, apart: bool) -> Graph:
    """The graph of a model by one reading of its input, held against the model."""
    axis = signal.batch_axis
    few, others = (x.narrow(axis, 0, min(x.shape[axis], most)) for most in (3, CHECKED))
    graph = trace_steps(model, few, signal, output, apart=apart)
    others = torch.cat([others, others.roll(1, -1)[(slice(None),) * axis + (slice(0, 1),)]], axis)
    _check_loop(graph, model, others, output)
    return graph


def _check_loop(graph: Graph, model: nn.Module, x: Tensor, output: int) -> None:
    """The graph must compute what the model does, whatever the number of samples.

    The layers of all steps are computed at once there and one by one here, which rounds otherwise,
    and a membrane at its threshold may then fire in one of them. So of each four samples one may
    differ; what is traced wrongly differs on all.

    Raises:
        TraceError: if it does not.
    """
    each = {seed for node in graph for seed in node.attrs.get("seeds", ())}
    with torch.no_grad(), paths.plain(), listed(model), SeededBernoulli(each):
        expected = model(x.clone())
    expected = expected[output] if isinstance(expected, tuple | list) else expected
    if not bool(expected.isfinite().all()):
        raise BadInput(f"{type(model).__name__} itself answers with NaN or infinity")
    found = evaluate(graph, x)
    axis = graph.output.type.batch_axis
    same = found.shape == expected.shape and bool(
        torch.isclose(found, expected, rtol=1e-4, atol=1e-4)
        .movedim(axis, 0)
        .flatten(1)
        .all(1)
        .float()
        .mean()
        >= 0.75
    )
    if not same:
        raise TraceError(
            f"the graph of {type(model).__name__} does not compute what the model does on other "
            f"samples: its forward keeps something from call to call, mixes samples or takes the "
            f"batch axis for time"
        )


def choose_scales(
    graph: Graph,
    partition: Partition,
    target: Target,
    calibration: Tensor | None,
    weight_bits: int,
    scales: Method | Scales,
    per_channel: bool,
    known: Mapping[str, Rounded] | None = None,
) -> Mapping[str, Scale | Rounded]:
    """The scale of each population on the chip, by name, or its integers where they are known.

    Args:
        graph: after the passes.
        partition: of the graph.
        target: whose arithmetic and limits hold.
        calibration: images for a search.
        weight_bits: bits of a weight.
        scales: a method, or the scales themselves.
        per_channel: whether a search may give channels different thresholds.
        known: what a search found in segments that are as they were in another partition.

    Raises:
        BadInput: if an option is out of range, or a layer at any scale.
    """
    weight_bits = value(weight_bits, int, "weight_bits")
    per_channel = value(per_channel, bool, "per_channel")
    stored_bits(target.registers, weight_bits)  # refuses other widths
    if scales not in METHODS if isinstance(scales, str) else not _are_scales(scales):
        raise BadInput(
            f"scales must be one of {', '.join(METHODS)}, or the scale of each population by its "
            f"name, not {described(scales)}"
        )
    if per_channel and scales != "search":
        raise BadInput("only a search gives channels their own thresholds: use scales='search'")
    names = [n for part in partition.on_chip for n in part.nodes if graph[n].op == "neuron"]
    held = {name: graph[name].attrs.get("mantissa") for name in names}
    if any(held.values()) and scales != "round":
        raise BadInput(
            "the network has integers of its own, which are not rounded: leave out scales"
        )
    if not isinstance(scales, str):
        return scales
    if scales == "round":
        r, bits = target.registers, weight_bits
        layers = {name: layer_of(graph, name) for name in names}
        return {
            name: Rounded(
                kept(layer, name, mantissa, r, bits)
                if (mantissa := held[name])
                else unclipped(layer, name, r, bits)
            )
            for name, layer in layers.items()
        }
    if calibration is None:
        raise BadInput("a search for scales needs calibration images: pass a few hundred")
    return search_scales(
        graph,
        partition,
        target.registers,
        calibration,
        weight_bits=weight_bits,
        thresholds=target.core.threshold_configs if per_channel else 1,
        known=known,
    )


def _are_scales(scales: Any) -> bool:
    return isinstance(scales, Mapping) and all(
        isinstance(name, str) and isinstance(scale, Scale) for name, scale in scales.items()
    )


def _check_traced(
    graph: Graph, model: nn.Module, images: Tensor | None, shape: tuple[int, ...]
) -> None:
    """The graph must compute what the model does: hooks, say, are not part of a trace.

    Raises:
        TraceError: if it does not.
    """
    x = example(Signal(shape)) if images is None else images[:4]
    with torch.no_grad(), paths.plain():
        expected = model(x.clone())  # a forward may write over its input
    if not bool(expected.isfinite().all()):
        raise BadInput(
            f"{type(model).__name__} itself answers with NaN or infinity: its weights are too "
            f"large; train it anew"
        )
    if not torch.allclose(evaluate(graph, x), expected, rtol=1e-4, atol=1e-4):
        raise TraceError(
            f"the traced graph of {type(model).__name__} does not compute what the model does: "
            f"its forward does something that tracing does not see, such as a hook"
        )


def _shape(calibration: Tensor | None, input_shape: Sequence[int] | int | None) -> tuple[int, ...]:
    if input_shape is not None:
        sides = tuple[Annotated[int, Meta(ge=1)], ...]
        alone = isinstance(input_shape, int) and not isinstance(input_shape, bool)
        shape: tuple[int, ...] = value(
            (input_shape,) if alone else input_shape, sides, "input_shape"
        )
        if calibration is not None and shape != tuple(calibration.shape[1:]):
            raise BadInput(
                f"input_shape is {shape} and the calibration images are "
                f"{tuple(calibration.shape[1:])}: leave out input_shape"
            )
        return shape
    if calibration is None:
        raise BadInput("the input shape is not known: pass calibration images or input_shape")
    return tuple(calibration.shape[1:])
