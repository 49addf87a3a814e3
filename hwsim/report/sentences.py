"""Whether a chip pays, in sentences that say how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from hwsim.names import RUN_MODES
from hwsim.price.breakeven import BreakEven
from hwsim.price.cost import CostReport
from hwsim.price.steps import Step
from hwsim.report import units
from mapping.targets.figures import Figure

FAR = 100.0
"""Beyond so many times the present value a break-even is no news."""

LIKELY = 0.9
"""What is so in this share of draws is likely."""

SHOWN = 3
"""Different waits, or nodes, that are named."""

UNKNOWN = "but not what the host draws while it waits and starts operations"


def verdict(board: Figure, alone: Figure, pays: float, *, complete: bool = True) -> str:
    """Whether the chip pays, as far as ranges and draws tell.

    Args:
        board: the energy of a sample with the chip.
        alone: that of the host alone, in the same unit.
        pays: the share of draws in which the board takes less, 0..1.
        complete: whether both have all that the host draws; nothing is sure without.
    """
    ratio = board.value / alone.value if alone.value else float("inf")
    times = f"{ratio:.2g} times the energy of the host alone"
    if not complete:
        return f"open: {times} by what is known, {UNKNOWN}"
    if board.high < alone.low:
        return f"the chip pays: {times}, wherever in their ranges the figures are"
    if board.low > alone.high:
        return f"the chip does not pay: {times}, wherever in their ranges the figures are"
    answer = "open"
    if max(pays, 1 - pays) >= LIKELY:
        answer = f"the chip likely {'pays' if pays > 0.5 else 'does not pay'}"
    return f"{answer}: {times} by the best figures, less in {units.percent(pays)} of draws"


def turns(cost: CostReport) -> str:
    """How chip segments take turns, and what a sample takes where they do so otherwise."""
    if len(cost.work.mapped.chip_segments) < 2:
        return "one chip segment, which costs the same in any"
    others = (
        f"; {mode} would take {units.energy(price.energy_uj.total)}, "
        f"{units.time(price.latency.total_us)}"
        for mode, price in cost.other_modes.items()
    )
    return f"{RUN_MODES[cost.run_mode]}{''.join(others)}"


def meanwhile(cost: CostReport) -> str:
    """What the host does while the chips have the sample, the longest first."""
    found = sorted(cost.price.latency.meanwhile_us.items(), key=lambda item: -item[1])
    named = ", ".join(f"{name} {units.time(us)}" for name, us in found[:SHOWN])
    more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    total = units.time(sum(us for _, us in found))
    return f"the host computes for {total} while the chip has the sample: {named}{more}"


def throughput(cost: CostReport) -> str:
    """How many samples a second, one after another and where they overlap."""
    time = cost.price.latency
    period, alone = time.period_us, time.total_us.value
    if period is None or not period.value or not alone:
        return "not known: the host's speed is not"
    text = f"{1e6 / alone:,.3g} samples a second one by one"
    if time.bound_by == "host" and period.value == alone:
        return text
    part = {"host": "the host is", "link": "the host's link is", "chips": "the chip is"}
    bound = part[time.bound_by]
    return f"{text}, at most {1e6 / period.value:,.3g} if they overlap, when {bound} always busy"


def waits(cost: CostReport, steps: Sequence[Step]) -> str:
    """What some steps wait for longest, the commonest first, such as ``core 5 (head.snn) in 3``."""
    counts = Counter(step.bottleneck for step in steps)
    tiles = cost.work.mapped.placement.tiles
    names = {
        f"core {core}": ", ".join(dict.fromkeys(t.population for t in tiles if t.core == core))
        for core in {tile.core for tile in tiles}
    }

    def layers(name: str) -> str:
        own = names.get(" ".join(name.split(" ")[:2]))  # "core 5", also of its stages
        return "" if own is None else f" ({own})"

    found = [f"{name}{layers(name)} in {many:,}" for name, many in counts.most_common(SHOWN)]
    rest = sum(counts.values()) - sum(many for _, many in counts.most_common(SHOWN))
    return ", ".join([*found, *([f"others in {rest:,}"] if rest else [])])


def break_even(found: Iterable[BreakEven]) -> str:
    """Where board and host alone cost the same, all else as it is."""
    return "; ".join(_break_evens(found))


def _break_evens(found: Iterable[BreakEven]) -> Iterator[str]:
    for item in found:
        far = item.value is not None and item.value > FAR * item.now
        if item.what == "batch":
            if item.value is None or far:
                yield "the chip is the cheaper side in batches of any size"
            elif item.value >= 1:
                yield f"the host alone in batches of {item.value:.3g}"
        elif item.value is None or far:
            word = "activity" if item.what == "activity" else item.what
            yield f"at no {word}"
        elif item.what == "activity":
            yield f"at {item.value:.3g} times the activity"
        else:
            yield f"{item.what} at {item.value:.3g} {item.unit} (now {item.now:.3g})"
