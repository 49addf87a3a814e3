"""Lava processes of has8's own: neurons that Lava lacks, and lines that hold spikes back."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from mapping.chip.neurons import subtracts

Shape = tuple[int, ...]


@functools.cache
def lif_neurons(several: frozenset[str], reset: str, refractory: int, written: bool) -> Any:
    """A model of Lava's neurons, with what Lava's lack where it is asked for.

    Lava's have one threshold and one pair of decays together, and a spike clears their
    membrane in the same step. Here there may be one for each neuron, and the membrane may stay: in
    the next step it tells which neurons fired, as :class:`mapping.chip.Lif` says. And each sample
    may have biases of its own.
    """
    from lava.magma.core.model.py.type import LavaPyType
    from lava.magma.core.process.variable import Var
    from lava.proc.lif.models import PyLifResetModelBitAcc
    from lava.proc.lif.process import LIFReset

    if not several and reset == "zero" and not refractory and not written:
        return PyLifResetModelBitAcc

    class Neurons(LIFReset):  # type: ignore[misc]
        def __init__(
            self, *, vth: Any, du: Any, dv: Any, biases: Any = 0, first: int = 0, **settings: Any
        ) -> None:
            super().__init__(**settings)
            more = {"biases": biases, "first": first} if written else {}
            for name, values in {"vth": vth, "du": du, "dv": dv, **more}.items():
                setattr(self, name, Var(shape=np.shape(values) or (1,), init=values))

    class Model(PyLifResetModelBitAcc):  # type: ignore[misc]
        implements_process = Neurons  # Lava's decorator for this refuses subclasses
        vth, du, dv = (
            LavaPyType(np.ndarray if name in several else int, np.int32, precision=bits)
            for name, bits in (("vth", 17), ("du", 12), ("dv", 12))
        )

        if written:
            biases = LavaPyType(np.ndarray, np.int32)  # of each sample, the last axis
            first = LavaPyType(int, int)  # the step in which the first sample arrives

            def scale_bias(self) -> None:
                sample = (self.time_step - self.first) // self.reset_interval
                if 0 <= sample < self.biases.shape[-1]:
                    self.bias_mant = self.biases[..., sample]
                super().scale_bias()

        def subthr_dynamics(self, activation_in: Any) -> None:
            self.fired = fired = self.v > self.effective_vth
            if subtracts(reset):  # with the bias, so before the membrane is clipped
                self.effective_bias -= fired * self.effective_vth
            super().subthr_dynamics(activation_in)
            if refractory:
                self.v[fired] = 0

        def reset_voltage(self, spike_vector: Any) -> None:
            if reset == "zero" and not refractory:
                super().reset_voltage(spike_vector)
            elif reset == "subtract_at_once":
                change = np.int64(spike_vector) - self.fired
                left = self.v - change * self.effective_vth
                self.v[:] = np.clip(left, 1 - self.max_uv_val, self.max_uv_val - 1)

    return Model


@functools.cache
def lines() -> Any:
    """A model that holds spikes back some steps, then passes on those of a sample's first steps."""
    from lava.magma.core.decorator import implements, requires, tag
    from lava.magma.core.model.py.model import PyLoihiProcessModel
    from lava.magma.core.model.py.ports import PyInPort, PyOutPort
    from lava.magma.core.model.py.type import LavaPyType
    from lava.magma.core.process.ports.ports import InPort, OutPort
    from lava.magma.core.process.process import AbstractProcess
    from lava.magma.core.process.variable import Var
    from lava.magma.core.resources import CPU
    from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

    class Line(AbstractProcess):  # type: ignore[misc]
        def __init__(self, *, shape: Shape, held: int, **numbers: int) -> None:
            super().__init__()
            self.s_in, self.s_out = InPort(shape=shape), OutPort(shape=shape)
            self.ring = Var(shape=(held + 1, *shape), init=0)
            for name, number in numbers.items():
                setattr(self, name, Var(shape=(1,), init=number))

    @implements(proc=Line, protocol=LoihiProtocol)
    @requires(CPU)
    @tag("fixed_pt")
    class Model(PyLoihiProcessModel):  # type: ignore[misc]
        s_in = LavaPyType(PyInPort.VEC_DENSE, np.int32)
        s_out = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
        ring = LavaPyType(np.ndarray, np.int32)
        first, period, passed = (LavaPyType(int, int) for _ in range(3))

        def run_spk(self) -> None:
            now, size = self.time_step, len(self.ring)
            self.ring[now % size] = self.s_in.recv()
            opened = (now - self.first) % self.period < self.passed
            self.s_out.send(self.ring[(now + 1) % size] * opened)

    return Model


@functools.cache
def packing_neurons(model: str) -> Any:
    """A model of the neurons :class:`mapping.chip.neurons.Unpack` or ``Pack``, by their name.

    They count a sample's steps by Lava's clock: ``first`` is that in which the first sample
    arrives, ``period`` the steps of one.
    """
    from lava.magma.core.decorator import implements, requires, tag
    from lava.magma.core.model.py.model import PyLoihiProcessModel
    from lava.magma.core.model.py.ports import PyInPort, PyOutPort
    from lava.magma.core.model.py.type import LavaPyType
    from lava.magma.core.process.ports.ports import InPort, OutPort
    from lava.magma.core.process.process import AbstractProcess
    from lava.magma.core.process.variable import Var
    from lava.magma.core.resources import CPU
    from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

    class Neurons(AbstractProcess):  # type: ignore[misc]
        def __init__(self, *, shape: Shape, **numbers: int) -> None:
            super().__init__()
            self.a_in, self.s_out = InPort(shape=shape), OutPort(shape=shape)
            self.v = Var(shape=shape, init=0)
            for name, number in numbers.items():
                setattr(self, name, Var(shape=(1,), init=number))

    @implements(proc=Neurons, protocol=LoihiProtocol)
    @requires(CPU)
    @tag("fixed_pt")
    class Model(PyLoihiProcessModel):  # type: ignore[misc]
        a_in = LavaPyType(PyInPort.VEC_DENSE, np.int32)
        s_out = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
        v = LavaPyType(np.ndarray, np.int32)
        first, period = (LavaPyType(int, int) for _ in range(2))

        def run_spk(self) -> None:
            step, arriving = (self.time_step - self.first) % self.period, self.a_in.recv()
            if model == "unpack":
                left = (0 if step == 0 else self.v) + arriving
                self.v[:] = left >> 1
                self.s_out.send(left & 1)
            else:
                before = 0 if step == 0 else self.v >> 1
                self.v[:] = before + ((arriving != 0) << (self.period - 1))
                self.s_out.send(self.v * (step == self.period - 1))

    return Model
