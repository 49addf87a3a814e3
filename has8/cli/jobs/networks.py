"""The network that a command is given: a trained model, a saved network, or a file of the user's.

Only ``FILE.py:NAME`` runs code, which the user asks for by writing it; all others are numbers.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import traceback
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from has8 import Checkpoint, load_checkpoint, over_time
from has8.cli.preparation import Preparation
from has8.data import Data, event_names
from has8.errors import BadInput, CheckpointError, Has8Error, TraceError
from has8.given import own_copy
from has8.reading import regular_file
from has8.steps import Input, Readout
from mapping.chip.archive import MANIFEST
from mapping.graph.ir import Graph
from mapping.graph.trace.netx import is_hdf5, read_netx
from mapping.graph.trace.nir import is_nir, read_as_told, read_nir
from mapping.network import FORMAT, read_network
from mapping.pipeline import Given, steps_axis, takes, traced

Coding = Literal["static", "rate", "latency", "graded"]
"""How values become the input of each step; "graded" is how they cross to a chip instead."""
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Under which training scripts keep a state dictionary."""
PREFIXES = ("module.", "_orig_mod.", "net.")
"""What DataParallel, torch.compile and has8.over_time put in front of every name."""
READ = "read"
"""Where a mapping's provenance has what a file left open and how it was read."""
NAMED = 3
"""Names of weights that a message gives."""


@dataclass(frozen=True)
class Network:
    """What is to be mapped.

    Args:
        model: the network.
        file: beside which results go.
        called: what results are called, if not as the file.
        weights: the files of its weights, if they are not in its own.
        told: what else made it, for the digest.
        checkpoint: of a model that has8 trained.
        shape: of its input, where that is known.
        inputs: what it takes, where that is known.
        steps: of its input, where these are known.
        steps_axis: of its input, the axis of these.
        facts: what was kept with it.
    """

    model: nn.Module | Graph
    file: Path
    called: str | None = None
    weights: tuple[Path, ...] = ()
    told: str = ""
    checkpoint: Checkpoint | None = None
    shape: tuple[int, ...] | None = None
    inputs: Given | None = None
    steps: int | None = None
    steps_axis: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What results are called."""
        return self.called or self.file.stem

    @property
    def training(self) -> Mapping[str, Any]:
        """The provenance of its training."""
        return self.facts if self.checkpoint is None else self.checkpoint.provenance

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes that it knows."""
        return None if self.checkpoint is None else self.checkpoint.class_names


def open_network(
    model: str, weights: Path | None = None, args: str | None = None, steps: int | None = None
) -> Network:
    """A network by what the user calls it.

    Args:
        model: a .pt of ``has8 train``, a file of :func:`mapping.save_model`, a network of Lava-DL
            or in NIR, or ``FILE.py:NAME``.
        weights: a state dictionary for ``FILE.py:NAME``.
        args: its arguments, or those of :func:`mapping.read_netx` or :func:`mapping.read_nir`, a
            JSON object.
        steps: of a sample, for a file that another tool wrote; ``args`` rule.

    Raises:
        CheckpointError: if a file cannot be read.
        BadInput: if the user's file or an option is not as it must be.
    """
    file, colon, name = model.rpartition(":")
    if colon and file.endswith(".py"):
        made = _made(Path(file), name, _arguments(args))
        if weights is not None:
            load_weights(made, weights)
        read = () if weights is None else (weights,)
        return Network(made, Path(file), name, read, f"{name} {args or ''}")
    path = Path(model)
    if weights is None and path.suffix != ".py" and is_hdf5(path):
        return _exported(path, args, steps)
    if weights is not None or args is not None:
        raise BadInput("--weights and --args are for a network of your own, FILE.py:NAME")
    if model.endswith(".py"):
        raise BadInput(f"name the network in {model}, a class or a function: {model}:NAME")
    if _is_network(path):
        graph, facts = read_network(path)
        signal, inputs, axis = graph.input.type, takes(graph), steps_axis(graph)
        shape, steps = list(signal.shape), signal.steps
        if inputs == "spikes" and axis:
            steps = shape.pop(axis - 1)
        else:
            axis = 0
        return Network(
            graph,
            path,
            shape=tuple(shape),
            inputs=inputs,
            steps=steps,
            steps_axis=axis,
            facts=facts,
        )
    try:
        checkpoint = load_checkpoint(path)
    except CheckpointError as error:
        if "state_dict" not in str(error) and "no has8 file:" not in str(error):
            raise
        raise CheckpointError(
            f"{error}, or for weights of your own FILE.py:NAME --weights {path}"
        ) from error
    return Network(checkpoint.model, path, checkpoint=checkpoint, shape=checkpoint.input_shape)


def prepared_for(network: Network, options: Mapping[str, Any]) -> Preparation:
    """What is to be done to data, by the user's options and by what is known of the network.

    Raises:
        BadInput: if both say something and differ.
    """
    channels, mean, std = (options[name] for name in ("channels", "mean", "std"))
    made = {"channels": channels and int(channels), "mean": mean or (), "std": std or ()}
    how = Preparation(**{**options, **made})
    if network.inputs is not None and how.inputs not in (None, network.inputs):
        raise BadInput(f"the network takes {network.inputs}: leave out --inputs")
    if network.steps is not None and how.steps not in (None, network.steps):
        raise BadInput(f"the network takes {network.steps} steps: leave out --steps")
    inputs, steps = how.inputs or network.inputs, how.steps or network.steps
    if READ in network.facts and inputs == "values":
        steps = None  # its reader took them
    return msgspec.structs.replace(how, inputs=inputs, steps=steps, steps_axis=network.steps_axis)


def steps_axis_of(network: Network, inputs: Given | None, x: Tensor) -> int:
    """The axis off which a network's forward takes the steps of a batch.

    Args:
        network: of a saved one it is known.
        inputs: what it takes.
        x: two samples; if they come in steps, ``[T, N, ...]``.
    """
    if not isinstance(network.model, nn.Module) or inputs in (None, "values"):
        return network.steps_axis
    for axis in (0, 1, -1):
        try:
            graph = traced(own_copy(network.model), x.movedim(0, axis), inputs=inputs)
        except Has8Error:  # what the mapping will say, if all are refused
            continue
        return steps_axis(graph)
    return 0


def check_steps(inputs: Given | None, how: Preparation, readout: Readout | None) -> None:
    """Refuse steps that nothing takes.

    Raises:
        BadInput: if values do not come in steps, and no loop over them is added.
    """
    if inputs in (None, "values") and how.steps is not None and readout is None:
        raise BadInput("--steps of values are for --readout: leave it out, or say what to read out")


def with_loop(
    network: Network,
    how: Preparation,
    data: str | None,
    readout: Readout | None,
    coding: Coding = "static",
    seed: int = 0,
) -> Network:
    """A network whose forward takes one step, with the loop over the steps.

    Args:
        network: with a forward of one step.
        how: its data are prepared; has the number of steps.
        data: whose name says whether there is an input for each step.
        readout: see :func:`has8.over_time`; None if the forward has the loop.
        coding: of values, whether each step has the same, or spikes by their rate or latency;
            "graded", which says how values cross to a chip, is of has8-map without a loop.
        seed: of the spikes.

    Raises:
        BadInput: if the network has its loop already, or the steps are not known.
    """
    if coding == "graded":
        raise BadInput(
            "--coding graded is of has8-map, for networks with encoders of their own: leave it out"
        )
    if readout is None:
        if coding != "static":
            raise BadInput("--coding is of a loop that is added: say what to read with --readout")
        return network
    if not isinstance(network.model, nn.Module):
        raise BadInput("a saved network has its readout already: leave out --readout")
    if how.steps is None:
        raise BadInput("--readout loops over the steps: say how many with --steps")
    each = data in event_names() if how.inputs is None else how.inputs != "values"
    if each and coding != "static":
        raise BadInput("--coding is of values, and these come in steps: leave it out")
    kind: Input = "steps" if each else coding
    model = over_time(network.model, how.steps, readout, kind, seed)
    told = f"{network.told} {how.steps} {readout} {coding} {seed}"
    return replace(network, model=model, told=told)


@contextmanager
def fitting(network: Network, source: Data) -> Iterator[None]:
    """A body that runs a network on data, and names these where its forward fails.

    Raises:
        TraceError: as in the body, with what the network was given.
    """
    try:
        yield
    except TraceError as error:
        if network.shape is not None or " fails" not in str(error):
            raise
        shape = "x".join(map(str, source.input_shape))
        raise TraceError(
            f"{error} (on {shape} of {source.name}, which --flatten, --image-size and --channels "
            "change; a forward that takes one step needs --readout)"
        ) from error


def _exported(path: Path, args: str | None, steps: int | None) -> Network:
    """A network that another tool wrote, read as ``args`` say."""
    nir, arguments = is_nir(path), _arguments(args)
    known = {n: p.default for n, p in signature(read_nir if nir else read_netx).parameters.items()}
    del known["path"]
    if odd := arguments.keys() - known.keys():
        what = "in NIR" if nir else "of Lava-DL"
        raise BadInput(f"--args of a network {what} are {', '.join(known)}, not {min(odd)!r}")
    if steps is not None:
        arguments = {"steps": steps, **arguments}
    if nir:
        graph, told = read_as_told(path, **arguments)
    else:
        graph = read_netx(path, **arguments)
        readouts = {"decode": "count", "last_membrane": "membrane_last"}
        readout = readouts.get(graph.output.op, "spikes")
        taken = next(node.type.steps for node in graph if node.op == "neuron")
        told = {**known, **arguments, "steps": taken, "readout": readout}
    signal = graph.input.type
    return Network(
        graph,
        path,
        told=f"{args or ''} {steps or ''}".strip(),
        shape=signal.shape,
        inputs=takes(graph),
        steps=signal.steps,
        facts={READ: told},
    )


def _is_network(path: Path) -> bool:
    """Whether a file is a saved network, by its content."""
    with regular_file(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                if archive.getinfo(MANIFEST).compress_type != zipfile.ZIP_STORED:
                    return False
                head = json.loads(archive.read(MANIFEST))
        except Exception:  # it is something else, which its own reader tells
            return False
    return isinstance(head, dict) and head.get("format") == FORMAT


def _arguments(args: str | None) -> dict[str, Any]:
    try:
        found = json.loads(args or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BadInput(f"--args takes a JSON object, such as '{{\"beta\": 0.9}}', not {args!r}")
    return found


def _made(file: Path, name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network that a user's file makes: this runs it."""
    with regular_file(file):
        pass
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise BadInput(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.resolve().parent))
    known = sys.modules.get(file.stem)
    sys.modules[file.stem] = module
    try:
        with redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
            found = getattr(module, name, None)
            if found is None:
                raise BadInput(f"{file} has no {name!r}: name a class or a function in it")
            made = found if isinstance(found, nn.Module) else found(**arguments)
    except Has8Error:
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(f"{file} fails{_line(error, file)}: {_words(error)}") from error
    finally:
        sys.path.remove(str(file.resolve().parent))
        if known is not None:
            sys.modules[file.stem] = known
    if not isinstance(made, nn.Module):
        raise BadInput(
            f"{name} of {file} must be a torch module, or make one, not a {type(made).__name__}"
        )
    return made.eval()


def _line(error: BaseException, file: Path) -> str:
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f" in line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file.absolute()]
    return f" in line {lines[-1]}" if lines else ""


def _words(error: BaseException) -> str:
    words = (error.msg if isinstance(error, SyntaxError) else str(error)).strip()
    return f"{type(error).__name__}{f': {words.splitlines()[0]}' if words else ''}"


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dictionary into a network: numbers only, whatever wrapped it.

    Args:
        model: the network.
        path: what ``torch.save`` wrote of its ``state_dict()``, or of a dictionary that has it.

    Raises:
        CheckpointError: if it cannot be read, holds code, or is not of this network.
    """
    with regular_file(path) as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a broken pickle can raise anything
            raise CheckpointError(
                f"{path} holds no weights that can be read without running code "
                f"({_words(error).partition('. ')[0]}): save net.state_dict() with torch.save"
            ) from error
    own = model.state_dict()
    state = _unwrapped(state, path, own)
    missing, odd = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = sorted(
        k for k in own.keys() & state.keys() if own[k].shape != state[k].shape and own[k].dim()
    )
    faults = [
        f"{what} {_few(names)}"
        for what, names in (("it lacks", missing), ("nobody takes", odd))
        if names
    ]
    faults += [
        f"{k!r} is of shape {tuple(state[k].shape)}, and the network's of {tuple(own[k].shape)}"
        for k in shapes[:1]
    ]
    if faults:
        raise CheckpointError(f"the weights in {path} are not of this network: {'; '.join(faults)}")
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"the weights in {path} are not of this network: {detail}") from error


def _unwrapped(state: Any, path: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by name, without what training scripts and wrappers put around them."""
    while isinstance(state, Mapping) and not any(map(torch.is_tensor, state.values())):
        inner = next((state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state = inner
    if not isinstance(state, Mapping) or not state or not all(map(torch.is_tensor, state.values())):
        raise CheckpointError(
            f"{path} holds no state dictionary, alone or as {', '.join(map(repr, WRAPPERS))}: save "
            "net.state_dict() with torch.save"
        )
    names = {str(key): value for key, value in state.items()}
    ours = [p for p in PREFIXES if not any(name.startswith(p) for name in own)]
    while prefix := next((p for p in ours if all(n.startswith(p) for n in names)), None):
        names = {name.removeprefix(prefix): tensor for name, tensor in names.items()}
    return names


def _few(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(repr, names[:NAMED])) + more
