"""The processor that runs the layers that the chip does not: data with sources, read from YAML.

A host is one file in ``mapping/hosts`` or a file of the user's own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

from mapping.targets.figures import Figure
from mapping.targets.sheets import (
    AboveZero,
    Data,
    Microseconds,
    NonNegative,
    Share,
    Sheet,
    Unit,
    find_sheet,
    sheet_names,
)

DEFAULT_HOST = "jetson-orin-nano"

_HERE = Path(__file__).parent

ALONE = "all layers"
"""The key of :attr:`Host.measured` for the whole model."""

OperationPicojoules = Annotated[Figure, Unit("pJ", AboveZero)]
Watts = Annotated[Figure, Unit("W", AboveZero)]


class Measured(Data, frozen=True, kw_only=True):
    """What a part of one model took on a host.

    Args:
        us: microseconds of one sample.
        w: watts meanwhile; None if they were not measured.
    """

    us: Microseconds
    w: Watts | None = None


class Host(Sheet, frozen=True, kw_only=True):
    """The processor that runs the layers that the chip does not.

    A peak figure understates what one sample at a time costs by orders of magnitude, so the
    share of the peak that is reached is stated, and :attr:`pj_per_mac` is the price at it.

    Args:
        peak_pj_per_mac: energy of one float32 multiply-accumulate at full utilisation.
        peak_pj_per_ac: energy of one float32 accumulate at full utilisation.
        utilisation: share of the peak that is reached, 0 < utilisation <= 1.
        peak_gmacs: billions of multiply-accumulates in a second at most; None if unknown.
        power_w: watts while working; None if unknown.
        idle_w: watts while waiting; None if unknown.
        launching_w: watts while it starts operations; None if unknown.
        launch_us: microseconds to start one layer; None if unknown.
        measured: what the host segments of one mapping took, by name, and all layers of its model
            under :data:`ALONE`: prices of that mapping rest on this, in place of operations and
            starts. Empty where nothing was measured.
    """

    peak_pj_per_mac: OperationPicojoules
    peak_pj_per_ac: OperationPicojoules
    utilisation: Annotated[Figure, Unit("", Share)]
    peak_gmacs: Annotated[Figure, Unit("GMAC/s", AboveZero)] | None = None
    power_w: Watts | None = None
    idle_w: Annotated[Figure, Unit("W", NonNegative)] | None = None
    launching_w: Watts | None = None
    launch_us: Microseconds | None = None
    measured: Mapping[str, Measured] = {}

    def __post_init__(self) -> None:
        """Check what single ranges cannot, and give each figure its place."""
        super().__post_init__()
        idle, most = self.idle_w, self.power_w
        if idle and most and not (idle.high <= most.value and idle.value <= most.low):
            raise ValueError("idle_w must be at most power_w")

    @property
    def pj_per_mac(self) -> Figure:
        """Energy of one multiply-accumulate at the stated utilisation, in picojoules."""
        return self.peak_pj_per_mac / self.utilisation

    @property
    def pj_per_ac(self) -> Figure:
        """Energy of one accumulate at the stated utilisation, in picojoules."""
        return self.peak_pj_per_ac / self.utilisation

    def launching_us(self, launches: int) -> Figure | None:
        """Microseconds that it takes to start so many operations; None if unknown.

        What was measured has them in it, so that there are none beside.
        """
        if self.measured:
            return Figure.exact(0.0, "µs")
        return None if self.launch_us is None else launches * self.launch_us

    def latency_us(self, macs: int, launches: int, part: str = ALONE) -> Figure | None:
        """Microseconds that ``launches`` layers of ``macs`` in all take; None if unknown.

        Args:
            macs: multiply-accumulates of a sample.
            launches: operations that it starts.
            part: whose they are, a segment's name; used where it was measured.
        """
        if self.measured:
            return self.measured[part].us
        if self.peak_gmacs is None or self.launch_us is None:
            return None
        working = macs / (self.peak_gmacs * self.utilisation * 1e3)
        return launches * self.launch_us + working.with_unit("µs")

    def macs_uj(self, macs: int, parts: Collection[str]) -> Figure:
        """Microjoules of the multiply-accumulates of one sample; with all else where measured.

        A part whose watts were not measured draws ``launching_w``, since nothing says how busy
        it keeps the host; where that is not known either, its operations have their price.

        Args:
            macs: of all parts.
            parts: whose they are.
        """
        drawn = [(self.measured[part].w or self.launching_w) for part in parts if self.measured]
        if not drawn or None in drawn:
            return macs * self.pj_per_mac * 1e-6
        first, *others = (w * self.measured[p].us for p, w in zip(parts, drawn, strict=True) if w)
        return sum(others, first)


def host_names() -> list[str]:
    """Names of the bundled hosts, sorted."""
    return sheet_names(_HERE)


def load_host(name_or_path: str | Path = DEFAULT_HOST) -> Host:
    """Read a host, by name or by path as :func:`mapping.targets.schema.load_target` does.

    Raises:
        UnknownName: if no host has that name.
        TargetError: if the file is missing or wrong; the message has the path of the entry.
    """
    return find_sheet(Host, "host", _HERE, name_or_path)
