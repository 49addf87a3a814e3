"""Loihi's learning engine: rules that are sums of products, in the widths of its registers.

A synapse has a weight w, a delay d and a tag t. Once in a step each of them may change by a sum of
products of what its two neurons have: whether they fire (x0, y0), traces of the one before (x1, x2)
and of the one behind (y1, y2, y3), and the synapse's own variables. This is what Lava's
bit-approximate model of ``Loihi3FLearningRule`` computes with epochs of one step: the neuron behind
sends its traces, and Lava's draws round what does not fit.

Source: lava-nc 0.10.0, ``lava/magma/core/model/py/connection.py`` and
``lava/magma/core/learning``; widths of traces, variables and accumulator as given there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from has8.errors import BadInput

Ints = NDArray[np.int64]

TRACE_BITS, ACCUMULATOR_BITS, MANTISSA_BITS = 7, 15, 4
IMPULSE_FRACTION = 2**8
"""An impulse is a multiple of one part in so many."""
VARIABLES = {"w": 8, "d": 8, "t": 8}
"""Bits of a synapse's variables beside their sign; a delay has none."""
WIDTHS = {"x0": 1, "y0": 1, "C": 8, **dict.fromkeys(("x1", "x2", "y1", "y2", "y3"), TRACE_BITS)} | {
    name: bits + 1 for name, bits in VARIABLES.items()
}
SENT_KEPT = float(np.exp(-1 / np.iinfo(np.uint16).max))
"""What a step leaves of a trace that the neuron behind has sent."""
_ROUNDING_SEED = 2


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor of a product, ``variable + constant``.

    Args:
        variable: "x1", "x2", "y1", "y2", "y3", "w", "d" or "t"; "C" for the constant alone.
        constant: is added.
        sign: take the sign of the sum: of w, d and t.

    Raises:
        BadInput: for one that there is not.
    """

    variable: str
    constant: int = 0
    sign: bool = False

    def __post_init__(self) -> None:
        if self.variable not in WIDTHS or (self.sign and self.variable not in VARIABLES):
            raise BadInput(f"there is no factor {self}")

    def __str__(self) -> str:
        """As Lava writes it."""
        if self.variable == "C":
            return f"({self.constant})"
        text = f"({self.variable}{self.constant:+d})" if self.constant else self.variable
        return f"sgn{text if text[0] == '(' else f'({text})'}" if self.sign else text


@dataclass(frozen=True, slots=True)
class Product:
    """``mantissa * 2**exponent * dependency * factors``.

    Args:
        dependency: when it counts: "x0" or "y0" where that neuron fires, "u" in every step.
        factors: whose values in that step are multiplied.
        mantissa: from -8 to 7.
        exponent: from -7 to 8.

    Raises:
        BadInput: for a value out of range.
    """

    dependency: Literal["x0", "y0", "u"]
    factors: tuple[Factor, ...]
    mantissa: int = 1
    exponent: int = 0

    def __post_init__(self) -> None:
        half = 2 ** (MANTISSA_BITS - 1)
        fits = -half <= self.mantissa < half and -7 <= self.exponent <= 8
        if self.dependency not in ("x0", "y0", "u") or not fits:
            raise BadInput(f"no learning engine holds {self}")

    @property
    def waits(self) -> bool:
        """Whether it is 0 where the neuron behind neither fires nor sends anything."""
        sent = any(f.variable in ("y1", "y2", "y3") and not f.constant for f in self.factors)
        return self.dependency == "y0" or sent

    def __str__(self) -> str:
        """As Lava writes it."""
        head = [str(self.mantissa), f"2^{self.exponent}"]
        dependency = "u0" if self.dependency == "u" else self.dependency
        return " * ".join([*head, dependency, *map(str, self.factors)])


@dataclass(frozen=True, slots=True)
class LearningRule:
    """How a synapse's variables change in a step.

    Args:
        changes: products by variable, "w", "d" or "t"; what is not there does not change.
        impulses: by which a spike raises x1 and x2, in 2**-8, from 0 to 127.
        time_constants: of x1 and x2 in steps, above 0; 0 where the trace is not used: it is 0 then.

    Raises:
        BadInput: for a value out of range.
    """

    changes: Mapping[str, Sequence[Product]]
    impulses: tuple[float, float] = (0.0, 0.0)
    time_constants: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not self.changes.keys() <= VARIABLES.keys():
            raise BadInput(f"a synapse has the variables w, d and t, not {list(self.changes)}")
        largest = 2**TRACE_BITS - 1
        if not all(0 <= impulse <= largest for impulse in self.impulses):
            raise BadInput(f"impulses must be from 0 to {largest}, not {list(self.impulses)}")
        if min(self.time_constants) < 0:
            raise BadInput(f"time constants must be at least 0, not {list(self.time_constants)}")


class LearningEngine:
    """Synapses between two layers, all to all, and a step of their rule at a time.

    Args:
        rule: of all of them.
        weights: ``int64[post, pre]`` from -256 to 255.
        seed: of the draws that round traces.

    Attributes:
        variables: by name, "w", "d" and "t", ``int64[post, pre]``.
        traces: x1 and x2 after the last step, ``int64[2, pre]`` from 0 to 127.
        waits: whether synapses only change of neurons that fire or send.
    """

    def __init__(self, rule: LearningRule, weights: Ints, seed: int = 0) -> None:
        self.rule = rule
        weights = np.array(weights, np.int64)
        self.variables = {"w": weights, **{name: np.zeros_like(weights) for name in ("d", "t")}}
        self.traces = np.zeros((2, weights.shape[1]), np.int64)
        self.waits = all(
            product.waits for products in rule.changes.values() for product in products
        )
        self._decays, self._impulses = (np.random.default_rng(seed + n) for n in range(2))
        self._sent = np.random.default_rng(seed + 2)
        self._rounding = np.random.default_rng(_ROUNDING_SEED)
        for draws in (self._decays, self._sent, self._rounding):
            draws.random()  # one is drawn before the first step
        self._impulses.integers(0, 2**TRACE_BITS)

    def step(self, pre: Any, post: Any, sent: Any) -> None:
        """Take the spikes of one step, and learn.

        Args:
            pre, post: who fires, ``bool[pre]`` and ``bool[post]``.
            sent: y1, y2 and y3 of the neurons behind, ``int64[3, post]`` from 0 to 127.
        """
        pre, post = np.asarray(pre, bool), np.asarray(post, bool)
        decay, impulse, kept, draw = self.draws(1)[0]
        self.traces = self._traces(pre, decay, int(impulse))
        behind = _rounded(np.asarray(sent, np.int64) * SENT_KEPT, kept)
        known = {
            "x0": pre[None].astype(np.int64), "y0": post[:, None].astype(np.int64),
            "x1": self.traces[:1], "x2": self.traces[1:],
            **{f"y{n + 1}": behind[n][:, None] for n in range(3)},
        }  # fmt: skip
        # Where nothing can change, nothing is computed: whole numbers are not rounded.
        rows = np.flatnonzero(post | behind.any(0)) if self.waits else slice(None)
        for name in ("y0", "y1", "y2", "y3"):
            known[name] = known[name][rows]
        known.update({name: values[rows] for name, values in self.variables.items()})
        changed = {
            name: _changed(name, products, known, draw)
            for name, products in self.rule.changes.items()
        }
        for name, values in changed.items():
            self.variables[name][rows] = values

    def run(self, pre: Any, post: Any, sent: Any) -> None:
        """Take some steps; all have the steps as one more axis in front."""
        for step in zip(pre, post, sent, strict=True):
            self.step(*step)

    def draws(self, steps: int) -> NDArray[np.float64]:
        """The next draws of so many steps: of decay, impulse, what is sent, and rounding.

        Lava draws the first three when it takes spikes, and again when it takes traces.
        """
        twice = (
            self._decays.random(2 * steps),
            self._impulses.integers(0, 2**TRACE_BITS, 2 * steps),
            self._sent.random(2 * steps),
        )
        return np.stack([*(part[1::2] for part in twice), self._rounding.random(steps)], 1)

    def _traces(self, pre: Any, decay: float, impulse: int) -> Ints:
        """Traces decay, and spikes raise them; both are rounded by chance."""
        after = np.zeros_like(self.traces)
        largest = 2**TRACE_BITS - 1
        for n, (tau, rise) in enumerate(
            zip(self.rule.time_constants, self.rule.impulses, strict=True)
        ):
            if tau:
                after[n] = _rounded(np.exp(-1 / tau) * self.traces[n], decay)
            whole = int(np.floor(rise))
            part = round((rise - whole) * IMPULSE_FRACTION)
            raised = np.clip(after[n] + whole + (impulse < part), 0, largest)
            after[n] = np.where(pre, raised, after[n])
        return after


def _changed(
    name: str, products: Sequence[Product], known: Mapping[str, Ints], draw: float
) -> Ints:
    """A variable after the step: summed in the accumulator, rounded, and cut to its range."""
    bits = VARIABLES[name]
    shift, limit = ACCUMULATOR_BITS - bits, 2**ACCUMULATOR_BITS
    total = known[name] << shift
    for product in products:
        total = np.clip(total + _product(product, known), -limit - 1, limit - 1)
    if name == "d":
        total = np.maximum(total, 0)
    lowest = {"w": -(2**bits), "d": 0, "t": -(2**bits) - 1}[name]
    return np.clip(_rounded(total / 2**shift, draw), lowest, 2**bits - 1)


def _product(product: Product, known: Mapping[str, Ints]) -> Ints:
    """A product in the accumulator's unit; it wraps around in 32 bits, as Lava's does."""
    value = np.ones(known["w"].shape, np.int32)
    if product.dependency != "u":
        value *= known[product.dependency].astype(np.int32)
    width = MANTISSA_BITS
    for factor in product.factors:
        bits = WIDTHS[factor.variable]
        width += bits
        term = np.asarray(known.get(factor.variable, 0) + np.int64(factor.constant))
        term = np.sign(term) if factor.sign else term
        value *= np.clip(term, -(2**bits), 2**bits - 1).astype(np.int32)
    value *= np.int32(product.mantissa)
    value = np.right_shift(value, max(0, width - ACCUMULATOR_BITS))
    value = np.left_shift(value, product.exponent + 7)
    limit = 2**ACCUMULATOR_BITS
    return np.clip(value, -limit - 1, limit - 1).astype(np.int64)


def _rounded(values: Any, draw: float) -> Ints:
    """The whole number below, or the one above where the draw is less than what is left."""
    below = np.floor(values)
    rounded: Ints = (below + (draw < values - below)).astype(np.int64)
    return rounded
