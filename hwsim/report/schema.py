"""The types of ``NAME.report.json`` and ``has8-map --json``, and their JSON schema.

The version is raised when a key is renamed or removed, or means something else; keys may be added.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import msgspec

from hwsim.activity import Overflow
from hwsim.price.breakeven import BreakEven
from hwsim.report.summary import ResetSummary, SegmentSummary
from mapping.cores.flows import Hops
from mapping.integers.errors import LayerError
from mapping.partition.segments import Rejection

VERSION = "has8-report-1"

Range = tuple[float, float]
Share = dict[str, float]
Side = Literal["host", "chip"]


class _Held(TypedDict):
    backend: str | None
    samples: int
    equal: bool | None


class Verified(_Held, total=False):
    """How two backends compared; ``reason`` says why they were not, else the others stand."""

    reason: str
    against: str
    spikes: int
    membranes: int
    divergence: str | None


class Use(msgspec.Struct):
    """Of a resource: in use, and on the chips that are used, as ``nextpnr --report`` has it."""

    used: int
    available: int


class CoresBound(msgspec.Struct):
    """Cores that the tiles take at least, by the resource that most are short of and by each."""

    cores: int
    resource: str | None
    by_resource: dict[str, int]


class OtherMode(msgspec.Struct):
    """The price in another run mode."""

    energy_uj: float
    latency_us: float
    energy_range_uj: Range
    latency_range_us: Range


class RunModes(msgspec.Struct):
    """How chip segments take turns, in words, and what others would cost."""

    name: str
    means: str
    others: dict[str, OtherMode]


class StepTime(msgspec.Struct):
    """One chip step, the mean over samples: its length, and what it waits for."""

    segment: str
    step: int
    us: float
    bottleneck: str
    waits_us: Share


class Timing(msgspec.Struct):
    """The model of a step's length, how long parts are busy, what the host computes
    while chips have the sample, samples a second, and all steps."""

    name: str
    means: str
    busy_us: dict[str, float | None]
    meanwhile_us: Share
    samples_per_s: dict[str, float | None]
    bound_by: str
    steps: list[StepTime]


class SegmentTime(msgspec.Struct):
    """The time of a host segment or of a run on the chip, in microseconds."""

    name: str
    side: Side
    steps: int
    work_us: float | None
    work_at_mean_us: float
    barrier_us: float
    management_us: float


class Latencies(msgspec.Struct):
    """The parts of the latency, which add up to the total, and the segments in order."""

    chip: float
    barrier: float
    management: float
    host: float | None
    messages: float
    exchange: float
    sample: float
    overlap: float | None
    total: float
    segments: list[SegmentTime]


class Accounting(msgspec.Struct):
    """The price of one sample by one accounting, with ranges."""

    energy_uj: Share
    latency_us: Latencies
    energy_range_uj: dict[str, Range]
    latency_range_us: dict[str, Range | None]


class HostOnly(msgspec.Struct):
    """One sample without the chip."""

    macs: int
    macs_uj: float
    launching_uj: float
    energy_uj: float
    latency_us: float | None
    energy_range_uj: Range
    latency_range_us: Range | None


class Likely(msgspec.Struct):
    """The 10th and 90th percentile of draws, and the share in which the board takes less."""

    events: Range
    cores: Range
    total: Range
    host_only: Range
    latency: Range
    pays: float


class Driver(msgspec.Struct):
    """An entry, and the board's energy over its range alone."""

    sheet: str
    path: str
    energy_range_uj: Range


class Entry(msgspec.Struct):
    """A figure of a target or host."""

    sheet: str
    path: str
    value: float
    range: Range
    unit: str


class Assumption(msgspec.Struct):
    """A sentence that the prices rest on."""

    text: str
    source: str
    trust: Literal["P", "Q", "S", "D", "M"]
    kind: Literal["sentence", "figures", "caveat"]
    figures: list[Entry]


class Learning(msgspec.Struct):
    """The price of learning one sample on the chip, by part."""

    samples: int
    updates: float
    firing: float
    energy_uj: Share
    energy_range_uj: dict[str, Range]
    latency_us: Share
    latency_range_us: dict[str, Range]
    assumptions: list[Assumption]


class Layer(msgspec.Struct):
    """Operations of a layer: ``effective`` and ``synops`` of one sample, totals over all."""

    name: str
    segment: str
    side: Side
    kind: str
    operation: Literal["AC", "MAC"]
    steps: int
    dense: int
    dense_padded: int
    host_macs: int
    effective: float
    effective_total: int
    synops: float
    synops_total: int


class Population(msgspec.Struct):
    """Updates and spikes of a layer on the chip."""

    name: str
    segment: str
    neurons: int
    accessed_total: int
    updated_total: int
    spikes_total: int
    idle_updated_total: int
    idle_spikes_total: int
    exact: bool


class Boundary(msgspec.Struct):
    """What crosses between host and chip for one tensor, of one sample, and over all."""

    node: str
    segment: str
    direction: Literal["in", "out"]
    spikes: float
    spikes_total: int
    writes: float
    writes_total: int
    reads: float
    reads_total: int
    messages: float
    messages_total: int
    message_bytes: float
    dense_bytes: int


class Traffic(msgspec.Struct):
    """Messages and hops of a run on the chip."""

    segment: str
    steps: int
    depth: int
    messages_total: int
    messages_from_host_total: int
    messages_between_tiles_total: int
    messages_to_host_total: int
    controls_total: int
    hops_east_west_total: int
    hops_north_south_total: int
    chip_crossings_total: int


class Report(msgspec.Struct):
    """All that a report says of one mapped, simulated and priced model.

    Units are in the names of keys; energies and latencies are of one sample.
    """

    schema: str
    model: str
    target: str
    host: str
    samples: int
    accuracy: dict[str, float | None]
    reset: ResetSummary
    verified: Verified
    provenance: dict[str, Any]
    partition: list[SegmentSummary]
    rejections: list[Rejection]
    quantization_error: dict[str, LayerError]
    cores_used: int
    cores_lower_bound: CoresBound
    chips_used: int
    hops: Hops
    utilisation: dict[str, Share]
    utilization: dict[str, Use]
    synops: float
    macs: int
    energy_uj: Share
    latency_us: float
    run_mode: RunModes
    timing: Timing
    learning: Learning | None
    default_accounting: str
    accountings: dict[str, Accounting]
    host_only: HostOnly
    likely: Likely
    range_drivers: list[Driver]
    break_even: list[BreakEven]
    convention_uj: float
    neurobench: Share
    layers: list[Layer]
    not_counted: list[str]
    neurons: list[Population]
    boundaries: list[Boundary]
    traffic: list[Traffic]
    events_total: dict[str, int]
    overflow_total: Overflow
    assumptions: list[Assumption]
    references: dict[str, str]


def report_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a report, as docs/report.schema.json has it."""
    found = msgspec.json.schema(Report)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": VERSION, **found}
