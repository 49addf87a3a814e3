"""A summary as a dictionary that JSON can hold; its keys stay as they are."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hwsim.experiments.divergence import Comparison
from hwsim.names import RUN_MODES, TIMINGS
from hwsim.price.assumptions import Assumption
from hwsim.price.cost import CostReport, Driver, Price
from hwsim.price.counts import LayerCounts
from hwsim.price.draws import likely
from hwsim.price.energy import Energy
from hwsim.price.learning import LearningPrice
from hwsim.price.timing import SegmentTime
from hwsim.price.traffic import SegmentLoad
from hwsim.report.schema import VERSION
from hwsim.report.summary import Summary
from mapping.targets.figures import Figure


def to_dict(summary: Summary) -> dict[str, Any]:
    """The summary as plain dictionaries, lists, strings and numbers, as in docs/report.schema.json.

    Units are in the keys: ``energy_uj`` in microjoules and ``latency_us`` in microseconds, both
    of one sample and by the target's default accounting. Keys with ``_range_`` hold the lowest and
    highest of what the same key without it holds; ``likely`` has the 10th and 90th percentile of
    draws of all entries at once, in the same units, and the share of draws in which the board takes
    less energy than the host alone. ``timing`` has what each chip step waits for, and samples a
    second, one after another and where they overlap, and what the host computes while the chips
    have the sample, by node (``meanwhile_us``). ``macs`` are the dense
    multiply-accumulates of one sample on the host, ``synops`` the synaptic operations of one
    sample on the chip. ``hops`` are messages times routers that they pass, one message for each
    neuron and core that it reaches. ``learning`` is the price of learning one sample on the chip,
    by part, and what it rests on; null unless it was asked for. Keys that end in ``_total`` are
    exact integers over all ``samples``.
    """
    cost = summary.cost
    return {
        "schema": VERSION,
        "model": summary.model,
        "target": cost.target,
        "host": cost.host,
        "samples": cost.samples,
        "accuracy": {"float": summary.accuracy_float, "mapped": summary.accuracy_mapped},
        "reset": asdict(summary.reset),
        "verified": _verified(summary.verified, summary.unverified),
        "provenance": dict(summary.provenance),
        "partition": [asdict(segment) for segment in summary.partition],
        "rejections": [asdict(rejection) for rejection in summary.rejections],
        "quantization_error": {name: asdict(error) for name, error in summary.errors.items()},
        "cores_used": cost.cores_used,
        "cores_lower_bound": {
            **asdict(summary.cores_bound),
            "resource": summary.cores_bound.resource if summary.cores_bound.cores else None,
        },
        "chips_used": cost.chips_used,
        "hops": asdict(summary.hops),
        "utilisation": {
            name: {"mean": mean, "peak": peak} for name, (mean, peak) in summary.utilisation.items()
        },
        "utilization": _utilization(summary),
        "synops": cost.synops,
        "macs": cost.host_macs,
        "energy_uj": _energy(cost.energy_uj),
        "latency_us": cost.latency_us.value,
        "run_mode": _run_mode(cost),
        "timing": _timing(cost),
        "learning": _learning(summary.learning),
        **_prices(cost),
        **_counts(cost),
        "assumptions": [_assumption(assumption) for assumption in cost.assumptions],
        "references": dict(cost.references),
    }


def _utilization(summary: Summary) -> dict[str, dict[str, int]]:
    """What is in use of the chips that are used, as ``nextpnr --report`` has it."""
    cost = summary.cost
    placement, each = cost.work.mapped.placement, cost.work.mapped.target.chip.cores
    cores = cost.chips_used * each
    used = {name: sum(core.used[name] for core in placement.cores) for name in placement.limits}
    return {
        "cores": {"used": cost.cores_used, "available": cores},
        **{
            name: {"used": used[name], "available": limit * cores}
            for name, limit in placement.limits.items()
        },
    }


def _verified(comparison: Comparison | None, reason: str) -> dict[str, Any]:
    if comparison is None:
        return {"backend": None, "samples": 0, "equal": None, "reason": reason}
    return {
        "backend": comparison.right,
        "against": comparison.left,
        "samples": comparison.samples,
        "spikes": comparison.spikes,
        "membranes": comparison.membranes,
        "equal": comparison.equal,
        "divergence": None if comparison.equal else str(comparison.divergence),
    }


def _run_mode(cost: CostReport) -> dict[str, Any]:
    return {
        "name": cost.run_mode,
        "means": RUN_MODES[cost.run_mode],
        "others": {
            mode: {
                "energy_uj": price.energy_uj.total.value,
                "latency_us": price.latency.total_us.value,
                "energy_range_uj": _range(price.energy_uj.total),
                "latency_range_us": _range(price.latency.total_us),
            }
            for mode, price in cost.other_modes.items()
        },
    }


def _timing(cost: CostReport) -> dict[str, Any]:
    time = cost.price.latency
    overlapping = None if time.period_us is None else _a_second(time.period_us)
    return {
        "name": cost.timing,
        "means": TIMINGS[cost.timing],
        "busy_us": {part: _value(busy) for part, busy in time.busy_us.items()},
        "samples_per_s": {"one_by_one": _a_second(time.total_us), "overlapping": overlapping},
        "bound_by": time.bound_by,
        "meanwhile_us": time.meanwhile_us,
        "steps": [
            {
                "segment": step.segment,
                "step": step.number,
                "us": step.us,
                "bottleneck": step.bottleneck,
                "waits_us": dict(step.waits_us),
            }
            for step in cost.steps
        ],
    }


def _learning(price: LearningPrice | None) -> dict[str, Any] | None:
    if price is None:
        return None
    shares = {"inference": price.inference, **price.parts, "total": price.total}
    return {
        "samples": price.samples,
        "updates": price.updates,
        "firing": price.firing,
        "energy_uj": {name: share.energy_uj.value for name, share in shares.items()},
        "energy_range_uj": {name: _range(share.energy_uj) for name, share in shares.items()},
        "latency_us": {name: share.time_us.value for name, share in shares.items()},
        "latency_range_us": {name: _range(share.time_us) for name, share in shares.items()},
        "assumptions": [_assumption(assumption) for assumption in price.assumptions],
    }


def _a_second(time_us: Figure) -> float | None:
    return 1e6 / time_us.value if time_us.value else None


def _prices(cost: CostReport) -> dict[str, Any]:
    alone = cost.host_only
    return {
        "default_accounting": cost.default_accounting,
        "accountings": {name: _price(price) for name, price in cost.prices.items()},
        "host_only": {
            "macs": alone.macs,
            "macs_uj": alone.macs_uj.value,
            "launching_uj": alone.launching_uj.value,
            "energy_uj": alone.energy_uj.value,
            "latency_us": _value(alone.latency_us),
            "energy_range_uj": _range(alone.energy_uj),
            "latency_range_us": _range(alone.latency_us),
        },
        "likely": {
            **{name: list(likely(draws)) for name, draws in cost.draws.items()},
            "pays": cost.pays,
        },
        "range_drivers": [_driver(driver) for driver in cost.drivers],
        "break_even": [asdict(found) for found in cost.break_even],
        "convention_uj": cost.convention_uj.value,
    }


def _driver(driver: Driver) -> dict[str, Any]:
    figure = driver.figure
    return {
        "sheet": figure.sheet,
        "path": figure.path,
        "energy_range_uj": [driver.low, driver.high],
    }


def _price(price: Price) -> dict[str, Any]:
    energies = _energies(price.energy_uj)
    times = {**price.latency.parts_us, "total": price.latency.total_us}
    return {
        "energy_uj": _energy(price.energy_uj),
        "latency_us": {
            **{part: _value(time) for part, time in times.items()},
            "segments": [_segment(segment) for segment in price.latency.segments],
        },
        "energy_range_uj": {part: _range(energy) for part, energy in energies.items()},
        "latency_range_us": {part: _range(time) for part, time in times.items()},
    }


def _energy(energy: Energy) -> dict[str, float]:
    return {part: figure.value for part, figure in _energies(energy).items()}


def _energies(energy: Energy) -> dict[str, Figure]:
    """The parts, which add up to the total, and the two sums within it."""
    sums = {"events": energy.events, "cores": energy.cores, "total": energy.total}
    return {**energy.parts, **sums}


def _segment(segment: SegmentTime) -> dict[str, Any]:
    return {
        "name": segment.name,
        "side": segment.side,
        "steps": segment.steps,
        "work_us": _value(segment.work_us),
        "work_at_mean_us": segment.at_mean_us.value,
        "barrier_us": segment.barrier_us.value,
        "management_us": segment.management_us.value,
    }


def _value(figure: Figure | None) -> float | None:
    return None if figure is None else figure.value


def _range(figure: Figure | None) -> list[float] | None:
    return None if figure is None else [figure.low, figure.high]


def _assumption(assumption: Assumption) -> dict[str, Any]:
    return {
        "text": assumption.text,
        "source": assumption.source,
        "trust": assumption.trust,
        "kind": assumption.kind,
        "figures": [
            {
                "sheet": figure.sheet,
                "path": figure.path,
                "value": figure.value,
                "range": [figure.low, figure.high],
                "unit": figure.unit,
            }
            for figure in assumption.figures
        ],
    }


def _counts(cost: CostReport) -> dict[str, Any]:
    return {
        "neurobench": {
            "Effective_MACs": cost.effective_macs,
            "Effective_ACs": cost.effective_acs,
            "Dense": cost.dense,
        },
        "layers": [_layer(layer, cost.samples) for layer in cost.layers],
        "not_counted": list(cost.not_counted),
        "neurons": [
            {
                "name": population.name,
                "segment": population.segment,
                "neurons": population.neurons,
                "accessed_total": population.accessed,
                "updated_total": population.updated,
                "spikes_total": population.spikes,
                "idle_updated_total": population.idle_updated,
                "idle_spikes_total": population.idle_spikes,
                "exact": population.exact,
            }
            for population in cost.populations
        ],
        "boundaries": [
            {
                "node": boundary.node,
                "segment": boundary.segment,
                "direction": boundary.direction,
                "spikes": boundary.spikes / cost.samples,
                "spikes_total": boundary.spikes,
                "writes": boundary.writes / cost.samples,
                "writes_total": boundary.writes,
                "reads": boundary.reads / cost.samples,
                "reads_total": boundary.reads,
                "messages": boundary.messages / cost.samples,
                "messages_total": boundary.messages,
                "message_bytes": boundary.message_bytes / cost.samples,
                "dense_bytes": boundary.dense_bytes,
            }
            for boundary in cost.boundaries
        ],
        "traffic": [_traffic(load) for load in cost.loads],
        "events_total": dict(cost.events),
        "overflow_total": asdict(cost.overflow),
    }


def _layer(layer: LayerCounts, samples: int) -> dict[str, Any]:
    return {
        "name": layer.name,
        "segment": layer.segment,
        "side": layer.side,
        "kind": layer.kind,
        "operation": "AC" if layer.spiking else "MAC",
        "steps": layer.steps,
        "dense": layer.dense,
        "dense_padded": layer.dense_padded,
        "host_macs": layer.host_macs,
        "effective": layer.effective / samples,
        "effective_total": layer.effective,
        "synops": layer.synops / samples,
        "synops_total": layer.synops,
    }


def _traffic(load: SegmentLoad) -> dict[str, Any]:
    return {
        "segment": load.segment,
        "steps": load.steps,
        "depth": load.depth,
        "messages_total": load.messages,
        "messages_from_host_total": load.from_host,
        "messages_between_tiles_total": load.between_tiles,
        "messages_to_host_total": load.to_host,
        "controls_total": load.controls,
        "hops_east_west_total": load.hops_east_west,
        "hops_north_south_total": load.hops_north_south,
        "chip_crossings_total": load.chip_crossings,
    }
