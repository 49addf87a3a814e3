"""One layer, the same spikes, many counters: the table of docs/counting.md.

``python -m benchmarks.counting`` prints it. Tools that are packages of the group "oracles" count
the layer themselves (:mod:`benchmarks.oracles`); of others the published rule is computed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import prod

import click
import snntorch as snn
import torch
from torch import Tensor, nn

from benchmarks import oracles
from has8 import over_time
from hwsim import estimate, simulate
from hwsim.price.counts import LayerCounts
from mapping import map_model
from mapping.mapped import Mapped

STEPS, SHAPE = 4, (3, 16, 16)
KERNEL, STRIDE, CHANNELS = 3, 2, 8


@dataclass(frozen=True, slots=True)
class Row:
    """One number of one tool.

    Args:
        tool: its name, with its version or "rule" where not the tool but its rule counts.
        name: what it calls the number.
        counts: what the number is of.
        number: of the layer and its spikes, over all steps; None where the package is missing.
    """

    tool: str
    name: str
    counts: str
    number: int | None


def layer() -> nn.Conv2d:
    """A convolution 3 x 3 with stride 2 and padding; some of its weights are zero."""
    conv = nn.Conv2d(SHAPE[0], CHANNELS, KERNEL, stride=STRIDE, padding=1, bias=False)
    numbers = torch.arange(conv.weight.numel())
    weights = (numbers * numbers * 5 + numbers * 3) % 127 - 63
    conv.weight.data = (weights * (weights.abs() > 9) * 4.0).view(conv.weight.shape)
    return conv


def spikes() -> Tensor:
    """Spikes ``float32[T, 1, *shape]``."""
    numbers = torch.arange(STEPS * prod(SHAPE))
    return ((numbers * numbers * 7 + numbers * 3) % 97 < 19).float().view(STEPS, 1, *SHAPE)


@lru_cache(maxsize=1)
def rows() -> tuple[Row, ...]:
    """All numbers, has8's first."""
    mapped, ours = counted()
    one = (layer(), spikes().flatten(0, 1))  # as layers without time take it
    names = {
        "synops": "synapses that spikes reach",
        "effective": "of these, those whose weight is not zero",
        "dense": "all synapses, in every step",
        "dense_padded": "all taps of all windows, padding too, in every step",
    }
    found = [Row("has8", name, of, getattr(ours, name)) for name, of in names.items()]

    def add(package: str, tool: str, names: dict[str, str], count: Callable[[], list[int]]) -> None:
        none = [None] * len(names)
        numbers = none if oracles.missing(package) else count()
        found.extend(Row(tool, *of, n) for of, n in zip(names.items(), numbers, strict=True))

    add(
        "neurobench",
        "NeuroBench 2.3.0",
        {"Effective_ACs": names["effective"], "Dense": names["dense"]},
        _neurobench,
    )
    add(
        "spikingjelly",
        "SpikingJelly 2.0.0",
        {
            "SynOpCounter": names["synops"],
            "estimate_simple_energy: ac": "these, and sums of its own measurement",
            "estimate_lemaire_energy: synop": "spikes × channels × ⌈kernel / stride⌉²",
        },
        lambda: _spikingjelly(*one),
    )
    add(
        "fvcore",
        "fvcore 0.1.5",
        {"flops": names["dense_padded"]},
        lambda: [oracles.fvcore(*one)["conv"]],
    )
    flops = oracles.torch_flops(*one)
    found.append(Row("torch", "FlopCounterMode", "the same; times and plus are two", flops))
    add(
        "sanafe",
        "SANA-FE 2.2.9",
        {"spikes": names["synops"], "packets_sent": "spikes × cores that they reach"},
        lambda: _sana_fe(mapped),
    )
    return *found, *_rules(ours)


def counted() -> tuple[Mapped, LayerCounts]:
    """The layer on a chip, and has8's counts of it."""
    neuron = snn.Leaky(
        beta=1.0,
        threshold=400.0,
        reset_mechanism="zero",
        reset_delay=False,
        init_hidden=True,
        output=True,
    )
    net = over_time(nn.Sequential(layer(), neuron), readout="spikes", input="steps")
    mapped = map_model(net, calibration=spikes(), inputs="spikes", scales="round")
    (counts,) = estimate(mapped, simulate(mapped, spikes())).layers
    return mapped, counts


def _neurobench() -> list[int]:
    neuron = snn.Leaky(beta=1.0, init_hidden=True, output=True)
    found = oracles.neurobench(nn.Sequential(layer(), neuron), spikes(), spiking=True)
    return [int(found["Effective_ACs"]), int(found["Dense"])]


def _spikingjelly(conv: nn.Module, x: Tensor) -> list[int]:
    jelly, net = oracles.package("spikingjelly"), nn.Sequential(conv)
    return [
        oracles.spikingjelly(lambda: conv(x))["synops"],
        int(jelly.estimate_simple_energy(net, x).counts["ac"]),
        int(jelly.estimate_lemaire_energy(net, x).counts["synop"]),
    ]


def _sana_fe(mapped: Mapped) -> list[int]:
    ((port,),) = (chip.inputs for chip in mapped.chip_segments)
    found = oracles.sana_fe(mapped, {port.name: spikes()[:, 0].bool()})
    return [found.synaptic_events, found.packets]


def _rules(ours: LayerCounts) -> tuple[Row, ...]:
    """What published rules give for the layer."""
    conv, x = layer(), spikes()
    sides = conv(x[0]).shape[2:]
    # sinabs goes back from ones to find out how many outputs each input reaches
    fan_out = nn.functional.conv_transpose2d(
        torch.ones(1, CHANNELS, *sides), torch.ones_like(conv.weight), None, STRIDE, 1, 1
    )
    connections = CHANNELS * prod(sides) * SHAPE[0] * KERNEL**2
    fired, rate = int(x.sum()), int(x.sum()) / x.numel()
    by_rate = int(connections * STEPS * rate)
    return (
        Row("sinabs (rule)", "synops", "synapses that spikes reach", int((x * fan_out).sum())),
        Row("syops (rule)", "ACs", "all taps, padding too, × mean of the inputs", by_rate),
        Row("KerasSpiking (rule)", "synops", "the same", by_rate),
        Row("papers (rule)", "SOPs", "steps × rate × FLOPs of the ANN: the same", by_rate),
        Row("papers (rule)", "SOPs", "spikes × channels × kernel²", fired * CHANNELS * KERNEL**2),
    )


def table(found: Sequence[Row]) -> list[str]:
    """The rows in Markdown; the last column is a number over has8's ``synops``."""
    truth = next(row.number for row in found if row.name == "synops")
    assert truth is not None
    lines = ["| tool | its number | of what | here | / synops |", "|---|---|---|---:|---:|"]
    for row in found:
        n = row.number
        here = "- | -" if n is None else f"{n:,} | {n / truth:.2f}"
        lines.append(f"| {row.tool} | {row.name} | {row.counts} | {here} |")
    return lines


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON instead.")
def main(as_json: bool) -> None:
    """Count one layer with every tool."""
    if as_json:
        found = [asdict(row) for row in rows()]
        click.echo(json.dumps({"benchmark": "counting", "rows": found}))
    else:
        click.echo("\n".join(table(rows())))
        for reason in filter(None, map(oracles.missing, oracles.MODULES)):
            click.echo(reason, err=True)


if __name__ == "__main__":
    main()
