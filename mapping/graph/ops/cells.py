"""snnTorch's neurons, which step, as constants of the neurons that :mod:`.neuron` runs."""

from __future__ import annotations

from math import isfinite
from typing import Any

import snntorch as snn
import torch
from torch import Tensor, nn

from mapping.graph.ops.one_to_one import OneToOne

CELLS: tuple[type[nn.Module], ...] = (
    snn.Leaky,
    snn.Lapicque,
    snn.Synaptic,
    snn.RLeaky,
    snn.RSynaptic,
)
"""The neurons that :func:`constants_of` reads."""


_OWN = frozenset({"__init__", "extra_repr", "__repr__", "__module__", "__doc__", "__qualname__"})
"""What a subclass may have of its own and still compute what its parent does."""


def kind_of(cell: nn.Module) -> type[nn.Module] | None:
    """Which of :data:`CELLS` a neuron is, itself or as a subclass that only fixes constants."""
    for kind in type(cell).__mro__:
        if kind in CELLS:
            return kind
        if not vars(kind).keys() <= _OWN | {"__annotations__"}:
            return None
    return None


def constants_of(cell: nn.Module) -> dict[str, Any]:
    """What one of snnTorch's neurons computes, as constants of a node of kind "neuron".

    Those of several values are float32 tensors, which broadcast over its neurons as torch does.

    Its state says it, not what it was made with. ``snn.Leaky`` clears a membrane that fired and
    then integrates; the others lose what arrives in the step after a spike too, which is a
    refractory step. With ``reset_delay=False`` none does: the membrane is cleared before that
    step, which for ``snn.Leaky`` is the same, and subtraction takes place then too.

    Args:
        cell: of :data:`CELLS`, or of a subclass that only fixes constants.

    Raises:
        ValueError: if it is of another class, or does what no constant says, in one sentence.
    """
    if kind_of(cell) is None:
        known = ", ".join(f"snn.{kind.__name__}" for kind in CELLS)
        raise ValueError(
            f"{type(cell).__name__} is no neuron that mapping knows: use {known}, or a subclass of "
            f"one that overrides nothing but __init__"
        )
    if cell.inhibition:
        raise ValueError(
            "with inhibition=True a neuron waits for all others in every step: leave it out"
        )
    if cell.state_quant:
        raise ValueError("state_quant rounds the membrane as no chip does: leave it out")
    reset = list(snn.SpikingNeuron.reset_dict)[round(_values(cell, "reset_mechanism_val"))]
    delayed = getattr(cell, "reset_delay", True)
    if reset == "subtract" and not delayed:
        reset = "subtract_at_once"
    alpha, gain = 0.0, 1.0
    if isinstance(cell, snn.Lapicque):
        resistance, capacity, step = (_values(cell, name) for name in ("R", "C", "time_step"))
        beta = 1 - step / (resistance * capacity)
        gain = resistance * (1 / (resistance * capacity)) * step
        if bool((torch.as_tensor(beta) < 0).any()):
            raise ValueError(
                "its membrane changes sign in every step, since time_step is longer than R C: "
                "choose a beta above 0.37, or a shorter time_step"
            )
    else:
        beta = _values(cell, "beta")
    if isinstance(cell, snn.Synaptic | snn.RSynaptic):
        alpha = _values(cell, "alpha")
    return {
        "model": "lif",
        "alpha": _part(alpha),
        "beta": _part(beta),
        "threshold": _values(cell, "threshold"),
        "gain": gain,
        "reset": reset,
        "refractory": int(reset == "zero" and delayed and not isinstance(cell, snn.Leaky)),
    }


def check_threshold(cell: nn.Module) -> None:
    """Refuse one of snnTorch's neurons with a threshold that no chip has.

    Raises:
        ValueError: if one of its thresholds is not above 0.
    """
    threshold = torch.as_tensor(_values(cell, "threshold"))
    if not bool((threshold > 0).all()):
        raise ValueError(f"its threshold must be above 0, not {float(threshold.min()):g}")


def factor_of(cell: nn.Module) -> float | Tensor:
    """What each spike of one of snnTorch's neurons is multiplied with, its graded_spikes_factor.

    Raises:
        ValueError: if that is 0, or not finite.
    """
    factor = _values(cell, "graded_spikes_factor")
    if isinstance(factor, Tensor):
        if not bool(factor.isfinite().all()):
            raise ValueError("its graded_spikes_factor must be finite numbers")
        return factor
    if not (factor and isfinite(factor)):
        raise ValueError(f"its graded_spikes_factor must be a number other than 0, not {factor}")
    return float(factor)


def states_of(cell: nn.Module) -> tuple[str, ...]:
    """What one of :data:`CELLS` keeps from step to step, in the order in which it takes that."""
    recurrent = ("spk",) if isinstance(cell, snn.RLeaky | snn.RSynaptic) else ()
    lasting = ("syn",) if isinstance(cell, snn.Synaptic | snn.RSynaptic) else ()
    return (*recurrent, *lasting, "mem")


def feedback_of(cell: nn.Module) -> nn.Module | None:
    """The layer from a recurrent neuron's spikes of the step before to its current."""
    if not isinstance(cell, snn.RLeaky | snn.RSynaptic):
        return None
    layer: nn.Module = cell.recurrent
    if isinstance(layer, nn.Linear | nn.Conv2d):
        return layer
    return OneToOne(torch.as_tensor(cell.V).detach().float())


def _values(cell: nn.Module, name: str) -> Any:
    """A number, or a tensor of several without leading axes of 1."""
    value = getattr(cell, name)
    value = (
        value.detach().float().cpu()
        if isinstance(value, Tensor)
        else torch.tensor(value, dtype=torch.float64)
    )
    if value.numel() == 1:
        return float(value)
    while len(value) == 1:
        value = value[0]
    return value.clone()


def _part(value: Any) -> Any:
    """As snnTorch clamps it in each step."""
    return value.clamp(0, 1) if isinstance(value, Tensor) else min(max(value, 0.0), 1.0)
