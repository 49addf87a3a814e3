"""A summary as a dictionary that JSON can hold; its keys stay as they are."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hwsim.experiments.divergence import Comparison
from hwsim.price.cost import CostReport, Energy
from hwsim.price.counts import LayerCounts
from hwsim.price.timing import Latency
from hwsim.price.traffic import SegmentLoad
from hwsim.report.summary import Summary


def to_dict(summary: Summary) -> dict[str, Any]:
    """The summary as plain dictionaries, lists, strings and numbers.

    Units are in the keys: ``energy_uj`` in microjoules and ``latency_us`` in microseconds, both
    of one sample and by the target's default accounting. ``macs`` are the dense
    multiply-accumulates of one sample on the host, ``synops`` the synaptic operations of one
    sample on the chip. Keys that end in ``_total`` are exact integers over all ``samples``.
    """
    cost = summary.cost
    return {
        "model": summary.model,
        "target": cost.target,
        "host": cost.host,
        "samples": cost.samples,
        "accuracy": {"float": summary.accuracy_float, "mapped": summary.accuracy_mapped},
        "verified": _verified(summary.verified, summary.unverified),
        "provenance": dict(summary.provenance),
        "partition": [asdict(segment) for segment in summary.partition],
        "rejections": [asdict(rejection) for rejection in summary.rejections],
        "quantization_error": {name: asdict(error) for name, error in summary.errors.items()},
        "cores_used": cost.cores_used,
        "chips_used": cost.chips_used,
        "utilisation": {
            name: {"mean": mean, "peak": peak} for name, (mean, peak) in summary.utilisation.items()
        },
        "synops": cost.synops,
        "macs": cost.host_macs,
        "energy_uj": _energy(cost.energy_uj),
        "latency_us": cost.latency_us,
        **_prices(cost),
        **_counts(cost),
        "assumptions": [
            {"text": item.text, "source": item.source, "trust": item.trust}
            for item in cost.assumptions
        ],
        "references": dict(cost.references),
    }


def _verified(comparison: Comparison | None, reason: str) -> dict[str, Any]:
    if comparison is None:
        return {"backend": None, "samples": 0, "equal": None, "reason": reason}
    return {
        "backend": comparison.right,
        "against": comparison.left,
        "samples": comparison.samples,
        "spikes": comparison.spikes,
        "equal": comparison.equal,
        "divergence": None if comparison.equal else str(comparison.divergence),
    }


def _prices(cost: CostReport) -> dict[str, Any]:
    return {
        "default_accounting": cost.default_accounting,
        "accountings": {
            name: {"energy_uj": _energy(price.energy_uj), "latency_us": _latency(price.latency)}
            for name, price in cost.prices.items()
        },
        "host_only": asdict(cost.host_only),
        "convention_uj": cost.convention_uj,
    }


def _energy(energy: Energy) -> dict[str, float]:
    return {**asdict(energy), "total": energy.total}


def _latency(latency: Latency) -> dict[str, Any]:
    segments = [asdict(segment) for segment in latency.segments]
    return {**latency.parts_us, "total": latency.total_us, "segments": segments}


def _counts(cost: CostReport) -> dict[str, Any]:
    return {
        "neurobench": {
            "Effective_MACs": cost.effective_macs,
            "Effective_ACs": cost.effective_acs,
            "Dense": cost.dense,
        },
        "layers": [_layer(layer, cost.samples) for layer in cost.layers],
        "neurons": [
            {
                "name": population.name,
                "segment": population.segment,
                "neurons": population.neurons,
                "accessed_total": population.accessed,
                "updated_total": population.updated,
                "spikes_total": population.spikes,
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
        "hops_east_west_total": load.hops_east_west,
        "hops_north_south_total": load.hops_north_south,
        "chip_crossings_total": load.chip_crossings,
    }
