"""Lava's bit-accurate Loihi simulation of a chip segment, in a process of its own.

The only file that imports Lava, and the only one that knows its axis order: everything lies
reversed there, (W, H, C) for (C, H, W). Torch inside a Lava process hangs, so a segment travels as
plain data to a fresh interpreter, which must never import torch; hence the imports within
functions. It may be one of another Python, since lava-nc needs 3.10: HAS8_LAVA_PYTHON names it.
As ``python -m hwsim.backends.lava NAME.h8 INPUT.npz OUTPUT.npz`` this also works where torch is not.

Each connection in Lava takes one step, so a population sees a sample later by its depth; its state
is cleared just then, and samples stream back to back. Where paths of different lengths meet, the
shorter is delayed. ``lava_limits.py`` refuses what Lava would not run bit for bit.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwsim.backends.lava.isolate import IsolatedError, interpreter_with, run_isolated

if TYPE_CHECKING:
    from torch import Tensor

    from hwsim.activity import SegmentRun
    from mapping.chip.segment import ChipSegment, Population, Synapse
    from mapping.targets.schema import Registers

Spikes = NDArray[np.bool_]
Shape = tuple[int, ...]

MOST_GROUPS = 127
"""Lava's Conv keeps its number of groups in an int8."""

PYTHON = "HAS8_LAVA_PYTHON"
"""The environment variable that names the interpreter which has Lava, if it is another one."""

INSTALL = "`pip install lava-nc==0.10.0`"


class Lava:
    """The backend that runs Lava.

    Args:
        timeout_s: the longest that one batch may take, in seconds.
    """

    name = "lava"

    def __init__(self, timeout_s: float = 600.0) -> None:
        self.timeout_s = timeout_s

    def unavailable(self) -> str | None:
        """Why Lava cannot run here, in one sentence; None if it can."""
        try:
            lava_python()
        except IsolatedError as error:
            return str(error)
        return None

    def compile(self, segment: ChipSegment, registers: Registers) -> LavaProgram:
        """Make a segment ready to run.

        Raises:
            BackendError: if Lava is missing or would not follow the segment bit for bit.
        """
        from has8.errors import BackendError
        from hwsim.backends.lava.limits import check_faithful

        try:
            lava_python()
            check_faithful(segment, registers)
        except IsolatedError as error:
            raise BackendError(str(error)) from None
        return LavaProgram(segment, self.timeout_s)


@dataclass(frozen=True, slots=True)
class LavaProgram:
    """A segment that Lava can run."""

    segment: ChipSegment
    timeout_s: float

    def __call__(
        self, inputs: Mapping[str, Tensor], *, first: int = 0, membranes: bool = False
    ) -> SegmentRun:
        """Run one batch in a fresh worker.

        Args:
            inputs: the spikes of each port, ``bool[T, B, *shape]``.
            first: of no account, nothing happens by chance.
            membranes: must be False.

        Raises:
            BadInput: if a port's spikes are missing or have another shape.
            BackendError: if the worker dies or takes longer than the time limit, or membranes
                are asked for.
        """
        import torch

        from has8.errors import BackendError
        from hwsim.activity import SegmentRun, checked_inputs

        if membranes:
            raise BackendError("Lava's runs keep no membranes; take the reference or the fast one")
        segment, given = self.segment, checked_inputs(self.segment, inputs)
        spikes = {name: tensor.cpu().numpy() for name, tensor in given.items()}
        try:
            fired = run_worker(segment, spikes, self.timeout_s)
        except IsolatedError as error:
            raise BackendError(str(error)) from None
        return SegmentRun({name: torch.from_numpy(array) for name, array in fired.items()})


def lava_python() -> str:
    """The path of the interpreter that has Lava: this one, or the one that HAS8_LAVA_PYTHON names.

    Raises:
        IsolatedError: if there is none; says how to get one.
    """
    if not hasattr(os, "killpg"):
        raise IsolatedError(
            "Lava's worker needs process groups, which this system lacks; use Linux or macOS"
        )
    if named := os.environ.get(PYTHON):
        return _named_python(named)
    if importlib.util.find_spec("lava") is not None:
        return sys.executable
    if sys.version_info < (3, 11):
        raise IsolatedError(f"Lava is not installed; run {INSTALL}")
    raise IsolatedError(
        f"lava-nc 0.10.0 needs Python 3.10, but this is {platform.python_version()}; make a 3.10 "
        f"environment with {INSTALL} and set {PYTHON} to its python"
    )


@functools.cache
def _named_python(named: str) -> str:
    try:
        return interpreter_with("lava.magma", named)
    except IsolatedError as error:
        raise IsolatedError(
            f"{PYTHON} is wrong: {error}; set it to the python of a 3.10 environment with {INSTALL}"
        ) from None


def run_worker(
    segment: ChipSegment, spikes: Mapping[str, Spikes], timeout_s: float
) -> dict[str, Spikes]:
    """Run a segment in Lava, in a process of its own; the same as :func:`simulate`.

    Raises:
        IsolatedError: if there is no Lava, or its process dies or takes longer than ``timeout_s``.
    """
    job = {"segment": segment, "inputs": list(spikes.values())}
    what = f"Lava's run of segment {segment.name!r}"
    fired = run_isolated("hwsim.backends.lava.backend", job, timeout_s, what, lava_python())
    return dict(zip([item.name for item in segment.populations], fired, strict=True))


def simulate(segment: ChipSegment, inputs: Mapping[str, Spikes]) -> dict[str, Spikes]:
    """Run a segment in Lava, in this process: not where torch has been imported.

    Args:
        segment: one that :meth:`Lava.compile` accepts, or anything with the same attributes.
        inputs: the spikes of each port, ``bool[T, B, *shape]``.

    Returns:
        The spikes of each population, aligned with the inputs, ``bool[T, B, *shape]``.
    """
    steps, samples = next(iter(inputs.values())).shape[:2]
    network = _Network(segment, inputs)
    fired = {}
    for name, stream in network.run().items():
        start = network.depth[name]
        stream = stream[start : start + samples * steps]
        fired[name] = stream.reshape(samples, steps, *stream.shape[1:]).swapaxes(0, 1)
    return fired


class _Network:
    """The Lava processes of one segment, connected, and a sink for each population's spikes."""

    def __init__(self, segment: ChipSegment, inputs: Mapping[str, Spikes]) -> None:
        self.inputs, self.period = inputs, segment.steps
        self.shape: dict[str, Shape] = {}
        self.depth: dict[str, int] = {}
        for port in segment.inputs:
            self.shape[port.name], self.depth[port.name] = tuple(port.shape), 0
        for population in segment.populations:
            depths = [self.depth[synapse.source] for synapse in population.synapses]
            self.depth[population.name] = 1 + max(depths, default=0)
            self.shape[population.name] = tuple(population.shape)
        samples = next(iter(inputs.values())).shape[1]
        self.steps = samples * self.period + max(self.depth.values())
        self.models: dict[Any, Any] = {}
        self.taps: dict[tuple[str, int], Any] = {}
        self.sinks: dict[str, Any] = {}
        for population in segment.populations:
            self._add(population)

    def run(self) -> dict[str, Spikes]:
        """Every population's spikes in every step, ``bool[steps, *shape]``."""
        from lava.magma.core.run_conditions import RunSteps
        from lava.magma.core.run_configs import Loihi2SimCfg

        # Naming each process's model saves Lava's search of whole folders, most of its start-up.
        config = Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map=self.models)
        streams = {
            name: np.empty((self.steps, *self.shape[name]), dtype=bool) for name in self.sinks
        }
        waiting = dict(self.sinks)
        while waiting:  # once for each part of the network that hangs together
            head = next(iter(waiting.values()))
            head.create_runtime(run_cfg=config, compile_config={"pypy_channel_size": 2})
            part = [name for name, sink in waiting.items() if sink.runtime is head.runtime]
            for start in range(0, self.steps, self.period):
                stop = min(start + self.period, self.steps)
                head.run(RunSteps(num_steps=stop - start))
                for name in part:
                    for step in range(start, stop):
                        streams[name][step] = waiting[name].receive().T
            head.stop()
            waiting = {name: sink for name, sink in waiting.items() if name not in part}
        return streams

    def _process(self, model: Any, **settings: Any) -> Any:
        """A new Lava process that runs a given model."""
        process = model.implements_process(**settings)
        self.models[process] = model
        return process

    def _add(self, population: Population) -> None:
        """Enter a population, its synapses and its sink."""
        from lava.magma.core.process.process import LogConfig
        from lava.proc.io.extractor import PyLoihiExtractorModel
        from lava.proc.lif.models import PyLifResetModelBitAcc

        name, shape = population.name, self.shape[population.name]
        bias, threshold = (
            np.broadcast_to(constants.reshape(-1, *[1] * (len(shape) - 1)), shape).T.copy()
            for constants in (population.bias, population.threshold)
        )
        one_threshold = bool((threshold == threshold.flat[0]).all())
        neurons = self._process(
            PyLifResetModelBitAcc if one_threshold else _neurons_with_thresholds(),
            shape=shape[::-1],
            du=population.du,
            dv=population.dv,
            vth=int(threshold.flat[0]) if one_threshold else threshold,
            bias_mant=bias,
            bias_exp=population.bias_exp,
            reset_interval=self.period,
            # Lava counts steps from 1; a sample's first spikes arrive after ``depth`` of them.
            reset_offset=(1 + self.depth[name]) % self.period,
        )
        for synapse in population.synapses:
            delay = self.depth[name] - self.depth[synapse.source] - 1
            self._connect(synapse, self._tap(synapse.source, delay), neurons.a_in)
        self.taps[name, 0] = neurons.s_out
        self.sinks[name] = self._process(
            PyLoihiExtractorModel,
            shape=shape[::-1],
            buffer_size=self.period,
            log_config=LogConfig(level=logging.INFO),  # or Lava hides why a process died
        )
        neurons.s_out.connect(self.sinks[name].in_port)

    def _tap(self, name: str, delay: int) -> Any:
        """The port that sends the spikes of ``name``, ``delay`` steps late."""
        from lava.proc.conv.models import PyConvModelFixed
        from lava.proc.io.source import PySendModelFixed

        if (name, delay) not in self.taps:
            shape = self.shape[name]
            if name in self.inputs:
                data = np.zeros((self.steps, *shape), dtype=np.int32)
                stream = self.inputs[name].swapaxes(0, 1).reshape(-1, *shape)
                data[delay : delay + len(stream)] = stream
                port = self._process(PySendModelFixed, data=data.T.copy()).s_out
            else:  # a convolution with a single 1 does nothing but take a step
                line = (int(np.prod(shape)), 1, 1)
                one = np.ones((1, 1, 1, 1), dtype=np.int32)
                relay = self._process(PyConvModelFixed, weight=one, input_shape=line)
                self._tap(name, delay - 1).reshape(line).connect(relay.s_in)
                port = relay.a_out.reshape(shape[::-1])
            self.taps[name, delay] = port
        return self.taps[name, delay]

    def _connect(self, synapse: Synapse, source: Any, target: Any) -> None:
        """Connect two ports through a synapse."""
        from lava.proc.conv.models import PyConvModelFixed
        from lava.proc.dense.models import PyDenseModelBitAcc
        from lava.proc.sparse.models import PySparseModelBitAcc

        if synapse.kind == "linear":
            shape = (*target.shape[::-1], *source.shape[::-1])
            outs, ins = np.split(np.arange(len(shape)), [len(target.shape)])
            weight = synapse.weight.reshape(shape).transpose(*outs[::-1], *ins[::-1])
            weight = weight.reshape(synapse.weight.shape)
            self._connect_matrix(PyDenseModelBitAcc, weight, synapse, source, target)
            return
        # Lava convolves where torch correlates, hence the flip.
        kernel = synapse.weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)
        groups = synapse.attrs["groups"]
        settings = {key: synapse.attrs[key][::-1] for key in ("stride", "padding", "dilation")}
        if synapse.weight_exp < 0 or groups > MOST_GROUPS:  # Conv ignores its exponent
            matrix = _expanded(kernel, source.shape, target.shape, group=groups, **settings)
            self._connect_matrix(PySparseModelBitAcc, matrix, synapse, source, target)
            return
        process = self._process(
            PyConvModelFixed,
            weight=(kernel << synapse.weight_exp).astype(np.int32),
            input_shape=source.shape,
            groups=groups,
            **settings,
        )
        source.connect(process.s_in)
        process.a_out.connect(target)

    def _connect_matrix(
        self, model: Any, matrix: Any, synapse: Synapse, source: Any, target: Any
    ) -> None:
        """Connect two ports, flattened, through a matrix with the synapse's weights."""
        from lava.utils.weightutils import SignMode, clip_weights, truncate_weights

        mode = SignMode[synapse.sign_mode.upper()]
        kept = truncate_weights(clip_weights(synapse.weight, mode, 8), mode, 8)
        if (kept != synapse.weight).any():
            raise ValueError(f"Lava would alter the {synapse.sign_mode} weights of {synapse.name}")
        process = self._process(
            model, weights=matrix, weight_exp=synapse.weight_exp, sign_mode=mode
        )
        source.reshape(process.s_in.shape).connect(process.s_in)
        process.a_out.reshape(target.shape).connect(target)


@functools.cache
def _neurons_with_thresholds() -> Any:
    """Lava's neurons, but with a threshold each; Lava's have one threshold together."""
    from lava.magma.core.model.py.type import LavaPyType
    from lava.magma.core.process.variable import Var
    from lava.proc.lif.models import PyLifResetModelBitAcc
    from lava.proc.lif.process import LIFReset

    class Neurons(LIFReset):  # type: ignore[misc]
        def __init__(self, *, vth: Any, **settings: Any) -> None:
            super().__init__(**settings)
            self.vth = Var(shape=vth.shape, init=vth)

    class Model(PyLifResetModelBitAcc):  # type: ignore[misc]
        implements_process = Neurons  # Lava's decorator for this refuses subclasses
        vth = LavaPyType(np.ndarray, np.int32, precision=17)

    return Model


def _expanded(kernel: Any, shape_in: Shape, shape_out: Shape, **settings: Any) -> Any:
    """A convolution as a sparse matrix, all in Lava's axis order."""
    from lava.proc.conv.utils import conv_to_sparse
    from scipy.sparse import csr_matrix

    rows, columns, values = conv_to_sparse(shape_in, shape_out, kernel, **settings)
    return csr_matrix((values, (rows, columns)), shape=(np.prod(shape_out), np.prod(shape_in)))


def work(job: Mapping[str, Any]) -> list[Spikes]:
    """The worker's work, from what :func:`run_worker` sends."""
    if "torch" in sys.modules:
        raise RuntimeError("torch was imported in Lava's worker, where it would hang")
    logging.basicConfig()
    names = [port.name for port in job["segment"].inputs]
    return list(simulate(job["segment"], dict(zip(names, job["inputs"], strict=True))).values())
