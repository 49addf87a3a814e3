"""Prices are those of plain floats, bit for bit, and rest on nothing that is not listed."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from has8 import create_model, load_checkpoint, load_data
from has8.errors import BadInput, UnknownName
from hwsim import estimate, simulate
from hwsim.names import RUN_MODES
from hwsim.price.timing import host_macs, launches_of
from hwsim.report import summarize, to_dict, units
from hwsim.report.sentences import turns
from mapping import load_target, map_model
from mapping.hosts.schema import host_names, load_host
from mapping.targets.figures import Figure
from mapping.targets.sheets import figures_of

ROOT = Path(__file__).parent.parent
LOIHI = load_target("loihi")
SMALL = msgspec.structs.replace(
    LOIHI,
    core=msgspec.structs.replace(LOIHI.core, neurons=64),
    chip=msgspec.structs.replace(LOIHI.chip, mesh_width=2, mesh_height=1, cores_per_tile=1),
)
"""Loihi with two cores of 64 neurons, so that a small net takes several chips."""

CONSTANTS = load_host("horowitz-45nm")


@pytest.fixture(scope="module")
def runs():
    """A small net on several chips, on one chip, and on the host, each with a run."""
    torch.manual_seed(0)
    model = create_model("has8_vgg", num_classes=10, in_channels=1, base=4, depth=1, head=(16,))
    images = torch.rand(8, 1, 8, 8)
    with torch.no_grad():
        for _ in range(10):
            model(images)
    mapped = {
        "head": map_model(model, LOIHI, ["head.snn"], calibration=images),
        "chips": map_model(model, SMALL, calibration=images),
        "chip": map_model(model, LOIHI, calibration=images),
        "host": map_model(model, LOIHI, "none", calibration=images),
    }
    assert mapped["chips"].placement.chips_used > 2 and not mapped["host"].chip_segments
    return {name: (one, simulate(one, images)) for name, one in mapped.items()}


# the same as plain floats


def plain_prices(cost, mapped, host):
    """The formulas, written down for floats: energies and times of each accounting."""
    return {name: plain_price(cost, mapped, name, host) for name in cost.prices}


def plain_price(cost, mapped, name, host):
    target, samples = mapped.target, cost.samples
    accounting = target.accountings[name]
    macs = host_macs(cost.layers)
    loads = {load.segment: load for load in cost.loads}
    chip_us = barrier_us = management_us = host_us = launching_us = overlap_us = 0
    for segment in mapped.partition.segments:
        if segment.side == "chip":
            load = loads[segment.name]
            steps = load.steps + load.depth
            chip_us += float(plain_steps(load, samples, accounting, target).sum()) / 1e3
            step_barrier = plain_barrier(mapped, accounting, segment, cost.run_mode)
            barrier_us += steps * step_barrier / 1e3
            management_us += steps * target.link.step_us.value
            overlap_us += plain_overlap(cost, mapped, load, host, accounting, step_barrier)
        elif host.peak_gmacs is None:
            host_us = launching_us = None
        else:
            launches = launches_of(mapped.graph[name] for name in segment.nodes)
            host_us += plain_host(host, macs.get(segment.name, 0), launches)
            launching_us += launches * host.launch_us.value
    messages = sum(load.from_host + load.to_host for load in cost.loads)
    if cost.run_mode == "gated" and len(loads) > 1:
        messages += 2 * cost.cores_used * samples
    messages_us = messages / samples * target.link.message_us.value
    exchange_us = len(loads) * target.link.exchange_us.value
    resets = len(loads) if cost.run_mode == "reset" else bool(loads)
    sample_us = resets * target.link.sample_us.value
    others = [messages_us, exchange_us, sample_us]
    times = [chip_us, barrier_us, management_us, host_us, *others]
    found_us = -cost.prices[name].latency.overlap_us.value
    assert found_us == pytest.approx(overlap_us, rel=1e-12)
    total_us = sum(time or 0.0 for time in times) - found_us
    waiting_us = sum([chip_us, barrier_us, management_us, *others]) - found_us
    parts = dict.fromkeys(("synapse", "soma", "network"), 0.0)
    words = {"synop": "synapse", "neuron": "soma", "message": "network", "hop": "network"}
    for event, count in cost.events.items():
        parts[words[event.split("_")[0]]] += count * accounting.events[event].pj.value
    error = accounting.energy_error.value
    parts = {part: pj * error / samples * 1e-6 for part, pj in parts.items()}
    bits, pj_per_bit = int(target.link.bits_per_message.value), target.link.pj_per_bit.value
    static_nj, chips = target.power.static_mw.value * total_us, cost.chips_used
    used = cost.cores_used / target.chip.cores
    parts["used_cores"] = used * static_nj * 1e-3
    parts["other_cores"] = (chips - used) * static_nj * 1e-3
    parts["embedded"] = chips * (target.power.embedded_mw.value * total_us) * 1e-3
    parts["reset"] = resets * chips * target.power.reset_uj.value
    parts["link"] = 2 * messages * bits * pj_per_bit / samples * 1e-6
    at_work = host.peak_pj_per_mac.value / host.utilisation.value
    parts["host"] = sum(macs.values()) * at_work * 1e-6
    known = host.idle_w is not None
    middle = host.launching_w.value if known else 0.0
    parts["launching"] = middle * launching_us if known else 0.0
    parts["waiting"] = host.idle_w.value * waiting_us if known else 0.0
    sums = {"total": sum(parts.values())}
    sums["events"] = parts["synapse"] + parts["soma"] + parts["network"]
    sums["cores"] = sums["events"] + parts["used_cores"]
    return {**parts, **sums}, [*times, -found_us, total_us]


def plain_overlap(cost, mapped, load, host, accounting, barrier):
    """The branch of values beside a run of the other branch, as far as that lasts."""
    if host.peak_gmacs is None:
        return 0.0
    link, samples = mapped.target.link, cost.samples
    beside = [node for node in mapped.graph if node.name.startswith(load.segment[:-3] + "ann.")]
    macs = sum(layer.host_macs for layer in cost.layers if layer.name in [n.name for n in beside])
    assert beside and load.segment.endswith("snn")
    steps, messages = load.steps + load.depth, load.from_host + load.to_host + load.controls
    run_us = float(plain_steps(load, samples, accounting, mapped.target).sum()) / 1e3
    run_us += steps * (barrier / 1e3 + link.step_us.value) + link.exchange_us.value
    run_us += messages / samples * link.message_us.value
    if cost.run_mode == "reset" and load is not cost.loads[0]:
        run_us += link.sample_us.value
    return min(run_us, plain_host(host, macs, launches_of(beside)))


def plain_steps(load, samples, accounting, target):
    ns = {event: price.ns.value for event, price in accounting.events.items()}
    neurons = ("neuron_access", "neuron_update", "neuron_spike", "message_out")
    times = {True: 0.0, False: 0.0}
    for event in (*neurons, *(e for e in load.by_core if e not in neurons)):
        times[event in neurons] = times[event in neurons] + load.by_core[event] * ns[event]
    join = np.maximum if accounting.overlaps else np.add
    cores = join(times[True], times[False]) * accounting.time_error.value
    slow = target.chip.chip_link_slowdown.value / target.chip.tile_spikes_per_ns.value
    links = [counts * slow for counts in load.chip_links.values()]
    busiest = np.vstack([cores, *links]).max(0) / samples
    x_ns, y_ns = ns["hop_east_west"], ns["hop_north_south"]
    return busiest + max((x * x_ns + y * y_ns for x, y in load.ways), default=0.0)


def plain_barrier(mapped, accounting, segment, run_mode):
    placement = mapped.placement
    taking_part = [
        core
        for core in placement.cores
        if run_mode == "reset"
        or any(placement.tiles[place].segment == segment.name for place in core.tiles)
    ]
    routers = {(core.chip, core.x, core.y) for core in taking_part}
    chips = [chip for chip, _, _ in routers]
    on_chip = plain_table(accounting.barrier_ns, max(map(chips.count, chips)))
    if placement.chips_used == 1:
        return on_chip
    chips = {1: Figure.exact(on_chip), **mapped.target.chip_barrier_ns}
    return plain_table(chips, placement.chips_used)


def plain_table(table, at):
    points = sorted((key, figure.value) for key, figure in table.items())
    return float(np.interp(at, [x for x, _ in points], [y for _, y in points]))


def plain_host(host, macs, launches):
    speed = host.peak_gmacs.value * host.utilisation.value * 1e3
    return launches * host.launch_us.value + macs / speed


@pytest.mark.parametrize(
    ("where", "name", "run_mode"),
    [
        *((where, name, "gated") for where in ("chips", "chip", "host") for name in host_names()),
        ("chips", "jetson-orin-nano", "reset"),
    ],
)
def test_prices_are_those_of_plain_floats_to_the_last_bit(runs, where, name, run_mode):
    mapped, run = runs[where]
    host = load_host(name)
    cost = estimate(mapped, run, host, run_mode)
    for accounting, (energy, times) in plain_prices(cost, mapped, host).items():
        price = cost.prices[accounting]
        found = price.energy_uj
        sums = {"total": found.total, "events": found.events, "cores": found.cores}
        figures = {**found.parts, **sums}
        assert {part: figure.value for part, figure in figures.items()} == energy
        found = [*price.latency.parts_us.values(), price.latency.total_us]
        assert [figure and figure.value for figure in found] == times


def test_prices_of_the_bundled_digits_are_those_on_record():
    recorded = json.loads((ROOT / "tests" / "digits_prices.json").read_text(encoding="utf-8"))
    images, _ = load_data("digits").test.tensors(recorded["images"])
    model = load_checkpoint(ROOT / "examples" / "models" / "digits.pt").model
    mapped = map_model(model, calibration=images)
    run = simulate(mapped, images)
    for host, prices in recorded["hosts"].items():
        report = to_dict(summarize(mapped, estimate(mapped, run, host)))
        assert report["events_total"] == recorded["events_total"], "the run itself has changed"
        assert report["convention_uj"] == recorded["convention_uj"]
        for name, price in prices["accountings"].items():
            found = report["accountings"][name]
            found["latency_us"].pop("segments")
            assert {key: found[key] for key in price} == price
        assert {key: report["host_only"][key] for key in prices["host_only"]} == prices["host_only"]
    assert set(recorded["hosts"]) == set(host_names())
    reset = estimate(mapped, run, run_mode="reset")
    assert sum(p.spikes for p in reset.populations) == recorded["events_total"]["neuron_spike"]
    assert sum(p.idle_spikes for p in reset.populations) == 552 * recorded["images"]


@pytest.mark.parametrize("run_mode", ["gated", "reset"])
def test_the_work_of_samples_that_are_counted_apart_is_the_mean_of_theirs(runs, run_mode):
    mapped, _ = runs["chips"]
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def segments(**apart):
        done = simulate(mapped, images, **apart)
        return done, estimate(mapped, done, run_mode=run_mode).price.latency.segments

    (whole, together), (few, apart) = segments(), segments(apart=9)  # at most all
    joint = sum(few.apart[1:], few.apart[0])
    for name, counts in whole.activity.events.items():
        assert (joint.events[name] == counts).all()
    alone = [simulate(mapped, image[None]) for image in images]
    times = [estimate(mapped, one, run_mode=run_mode).price.latency.segments for one in alone]
    longer = 0.0
    for before, after, *each in zip(together, apart, *times, strict=True):
        if before.side == "chip":
            assert after.at_mean_us == before.work_us == before.at_mean_us
            mean = sum(one.work_us.value for one in each) / 4
            assert after.work_us.value == pytest.approx(mean)
            longer += mean - before.work_us.value
        else:
            assert after == before
    assert longer > 0.1
    report = to_dict(summarize(mapped, estimate(mapped, few), model="net"))
    for segment in report["accountings"]["sanafe"]["latency_us"]["segments"]:
        assert (segment["side"] == "host") == (segment["work_at_mean_us"] == 0)
    assert len(simulate(mapped, images, apart=3).apart) == 3


def test_one_chip_segment_costs_the_same_in_any_mode(runs):
    mapped, run = runs["head"]
    costs = [estimate(mapped, run, run_mode=mode) for mode in RUN_MODES]
    assert len({str((cost.prices, cost.events)) for cost in costs}) == 1
    assert costs[0].other_modes == {}
    assert to_dict(summarize(mapped, costs[0], model="net"))["run_mode"]["others"] == {}


def test_other_modes_cost_what_they_cost_when_asked_for(runs):
    """The host decodes and encodes between these segments, so that no pipeline has them all."""
    mapped, run = runs["chips"]
    reset, gated = (estimate(mapped, run, run_mode=mode) for mode in ("reset", "gated"))
    assert estimate(mapped, run).prices == gated.prices
    assert reset.other_modes == {"gated": gated.price}
    assert gated.other_modes == {"reset": reset.price}
    idle = {"neuron_access", "neuron_update", "neuron_spike", "message_out"}
    more = {event: reset.events[event] - gated.events[event] for event in gated.events}
    assert more["neuron_access"] > 0 and not any(more[event] for event in more.keys() - idle)
    assert more["neuron_update"] == sum(p.idle_updated for p in reset.populations)
    assert more["neuron_spike"] == sum(p.idle_spikes for p in reset.populations)
    others = to_dict(summarize(mapped, reset, model="net"))["run_mode"]["others"]
    assert others["gated"]["energy_uj"] == gated.energy_uj.total.value
    assert others["gated"]["latency_us"] == gated.latency_us.value
    said = turns(reset)
    assert said.startswith(RUN_MODES["reset"])
    assert f"gated would take {units.energy(gated.energy_uj.total)}" in said
    with pytest.raises(BadInput, match="the host computes 'host1' between"):
        estimate(mapped, run, run_mode="pipeline")
    with pytest.raises(UnknownName, match="unknown run mode 'gate': did you mean 'gated'"):
        estimate(mapped, run, run_mode="gate")


# every figure is listed


def numbers_of(cost, mapped):
    """All of a report but its words."""
    report = to_dict(summarize(mapped, cost, model="net"))
    return {key: value for key, value in report.items() if key not in ("assumptions", "provenance")}


def listed(cost):
    """(sheet, path) of every figure among the assumptions."""
    return {(f.sheet, f.path) for item in cost.assumptions for f in item.figures}


def entries(plain, path=()):
    """Places of all figures and all other numbers in what JSON holds of a sheet."""
    if isinstance(plain, dict) and "value" in plain:
        yield path
    elif isinstance(plain, dict):
        for key, item in plain.items():
            if (*path, key) != ("citations",):
                yield from entries(item, (*path, key))
    elif isinstance(plain, (int, float)) and not isinstance(plain, bool):
        yield path


def other_figures(figure):
    """A figure far from this one, then the same one with another range or value within it."""
    numbers = [figure[key] for key in ("value", "low", "high")]
    for value, low, high in (
        [x * 1000 for x in numbers],
        [x / 1000 for x in numbers],
        [x + 1000 for x in numbers],
        (figure["low"], *numbers[1:]),
        (figure["high"], *numbers[1:]),
        (numbers[0], figure["low"] / 1000, numbers[2]),
        (*numbers[:2], figure["high"] * 1000),
    ):
        yield {**figure, "value": value, "low": low, "high": high}


def changed(sheet, values):
    """The sheet with other values at some places, by place; the values of figures are dicts."""
    plain = json.loads(msgspec.json.encode(sheet))
    for (*sections, key), value in values.items():
        place = plain
        for section in sections:
            place = place[section]
        place[key] = value
    return msgspec.json.decode(json.dumps(plain), type=type(sheet))


def other_values(sheet, entry):
    """Other figures or limits at one place; those that are legal."""
    now = json.loads(msgspec.json.encode(sheet))
    for key in entry:
        now = now[key]
    is_figure = isinstance(now, dict)
    for other in other_figures(now) if is_figure else (now - 1, now + 1, now * 2, now * 1000):
        with suppress(msgspec.ValidationError):
            if changed(sheet, {entry: other}) != sheet:
                yield other


def sheets_with(sheet, values):
    """Sheets that have all of these values between them, as many at once as are legal."""
    try:
        yield changed(sheet, values)
    except msgspec.ValidationError:
        half = len(values) // 2
        for some in ([*values.items()][:half], [*values.items()][half:]):
            yield from sheets_with(sheet, dict(some))


@pytest.mark.parametrize(
    ("name", "where"), [*((name, "chips") for name in host_names()), ("horowitz-45nm", "host")]
)
def test_what_changes_a_number_is_among_the_assumptions(runs, monkeypatch, name, where):
    """Each entry of a host, and of the convention beside it."""
    assert_listed(runs[where], monkeypatch, name, ("host", "convention"))


@pytest.mark.parametrize("where", ["chips", "chip", "host"])
@pytest.mark.parametrize("name", ["a100"])
def test_what_of_a_target_changes_a_number_is_among_the_assumptions(runs, monkeypatch, where, name):
    """Each entry of the target, which no host decides about.

    What is found by pricing the board again and again moves with its price.
    """
    monkeypatch.setattr("hwsim.price.cost._drivers", lambda *_: ())
    monkeypatch.setattr("hwsim.price.cost._break_even", lambda *_: ())
    monkeypatch.setattr("hwsim.price.cost._other_modes", lambda *_: ())
    assert_listed(runs[where], monkeypatch, name, ("target",))


CORES = ("mesh_width", "mesh_height", "cores_per_tile")


def assert_listed(of_run, monkeypatch, name, roles):
    """Each listed entry of some sheets changes a number, and all others at once change none."""
    names = ("events", "cores", "total", "host_only", "latency")
    monkeypatch.setattr("hwsim.price.cost._draws", lambda *_: dict.fromkeys(names, np.zeros(2)))
    mapped, run = of_run
    sheets = {"target": mapped.target, "host": load_host(name), "convention": CONSTANTS}

    def priced(target, host, convention):
        monkeypatch.setattr("hwsim.price.cost.load_host", lambda _: convention)
        there = replace(mapped, target=target)
        return numbers_of(estimate(there, run, host), there)

    before = priced(**sheets)
    every = listed(estimate(mapped, run, sheets["host"]))
    showing, still = set(), set()
    for role in roles:
        sheet = sheets[role]

        def moved(*others, role=role):
            return any(priced(**{**sheets, role: other}) != before for other in others)

        places = [*entries(json.loads(msgspec.json.encode(sheet)))]
        others = {entry: [*other_values(sheet, entry)] for entry in places}
        assert all(others.values())
        known = {entry for entry in places if (sheet.name, ".".join(entry)) in every}
        for entry in known:
            if not ".".join(entry).endswith(
                ("_ns", ".ns")
            ):  # else a busier core, link or way may hide it
                shows = any(moved(changed(sheet, {entry: other})) for other in others[entry])
                (showing if shows else still).add((sheet.name, entry))
        # how many cores share the static power is no price
        silent = {*places} - known - {("chip", name) for name in CORES}
        for turn in range(max(map(len, others.values()))):
            values = {entry: others[entry][turn] for entry in silent if turn < len(others[entry])}
            assert not moved(*sheets_with(sheet, values))
    assert still <= showing  # in the other role of a sheet that has two


@pytest.mark.parametrize("name", host_names())
@pytest.mark.parametrize("where", ["chips", "chip", "host"])
def test_what_is_listed_stands_in_a_sheet_and_entered_a_price(runs, where, name):
    mapped, run = runs[where]
    host, convention = load_host(name), CONSTANTS
    cost = estimate(mapped, run, host)
    sheets = {sheet.name: sheet for sheet in (convention, host, mapped.target)}
    for item in cost.assumptions:
        assert (item.kind == "figures") <= bool(item.figures)
        for figure in item.figures:
            assert figure in set(figures_of(sheets[figure.sheet]))
            cited = sheets[figure.sheet].citations[figure.path]
            assert (item.source, item.trust) == (cited.source, cited.trust)
            shown = item.text.replace(",", "")
            assert f"{figure.value:g}" in shown or f"{figure.value * 100:.3g} %" in shown
    quoted = [figure for item in cost.assumptions for figure in item.figures]
    assert cost.cited <= set(quoted)
    assert len(set(quoted)) == len(quoted) or name == "horowitz-45nm"
    listings = [f for item in cost.assumptions if item.kind == "figures" for f in item.figures]
    assert set(listings) <= cost.cited


def test_a_price_without_a_source_bears_the_name_of_its_file(runs):
    mapped, run = runs["chip"]
    link = msgspec.structs.replace(
        mapped.target.link, exchange_us=Figure(500.0, 400.0, 900.0, "µs")
    )
    mine = msgspec.structs.replace(mapped.target, name="mine", link=link)
    cost = estimate(replace(mapped, target=mine), run)
    (sentence,) = (a for a in cost.assumptions if "exchange spikes with the host" in a.text)
    assert (sentence.source, sentence.trust) == ("mine", "M")
    exchange = cost.price.latency.exchange_us
    assert exchange.trust == "M" == cost.latency_us.trust
    assert exchange.high - exchange.value == pytest.approx(400 * len(mapped.chip_segments))


# ranges


def test_a_range_of_static_power_is_one_of_the_energy(runs):
    mapped, run = runs["chips"]
    cost = estimate(mapped, run)
    energy, static, time = cost.energy_uj, LOIHI.power.static_mw, cost.latency_us
    power = {"low": static.low, "value": static.value, "high": static.high}
    for end, mw in power.items():
        cores = getattr(energy.used_cores, end), getattr(energy.other_cores, end)
        assert sum(cores) == pytest.approx(mw * getattr(time, end) * cost.chips_used * 1e-3)
    assert energy.total.low < energy.total.value < energy.total.high
    assert LOIHI.power.static_mw in energy.cores.cited - energy.events.cited
    assert LOIHI.link.bits_per_message in energy.link.cited


def test_events_are_off_as_their_accounting_says(runs):
    mapped, run = runs["chip"]
    for name, price in estimate(mapped, run).prices.items():
        events, error = price.energy_uj.events, LOIHI.accounting(name).energy_error
        assert events.low == pytest.approx(events.value / error.value * error.low)
        assert events.high == pytest.approx(events.value / error.value * error.high)


def test_a_host_that_waits_draws_its_idle_power(runs):
    """By hand: what is not the host's own time, times its watts."""
    mapped, run = runs["chip"]
    host = load_host("jetson-tx1")
    price = estimate(mapped, run, host).price
    others = price.latency.total_us.value - price.latency.host_us.value
    assert price.energy_uj.waiting.value == pytest.approx(2.64 * others)
    assert price.energy_uj.launching.value == 0  # part of what was measured
    silent = msgspec.structs.replace(host, idle_w=None, launching_w=None)
    cost = estimate(mapped, run, silent)
    assert cost.energy_uj.waiting.value == 0
    sentences = [assumption.text for assumption in cost.assumptions]
    unknown = "What the host draws while it waits for the chip is not known and not counted."
    assert unknown in sentences and not any("starts operations it" in text for text in sentences)
    with pytest.raises(ValueError, match="idle_w must be at most power_w"):
        msgspec.structs.replace(host, idle_w=Figure.exact(5.0, "W"))


def test_what_widens_the_range_is_named(runs):
    """Each entry alone: no wider than the whole range, which they make together."""
    mapped, run = runs["chip"]
    cost = estimate(mapped, run)
    total, widths = cost.energy_uj.total, [d.high - d.low for d in cost.drivers]
    assert widths == sorted(widths, reverse=True) and widths[0] > 0
    assert all(total.low <= d.low <= total.value <= d.high <= total.high for d in cost.drivers)
    assert {d.figure for d in cost.drivers} == {f for f in total.cited if f.low < f.high}
    link = msgspec.structs.replace(mapped.target.link, message_us=Figure.exact(1.4, "µs"))
    exact = msgspec.structs.replace(mapped.target, link=link)
    other = estimate(replace(mapped, target=exact), run)
    assert "link.message_us" in {d.figure.path for d in cost.drivers}
    assert "link.message_us" not in {d.figure.path for d in other.drivers}


def test_what_nothing_was_spent_on_cites_nothing(runs):
    mapped, run = runs["host"]
    energy = estimate(mapped, run).energy_uj
    assert {name for name, part in energy.parts.items() if part.cited} == {"host", "launching"}
    assert {figure.sheet for figure in energy.total.cited} == {"jetson-orin-nano"}


def test_ranges_in_json_surround_their_values(runs):
    mapped, run = runs["chips"]
    for name in host_names():
        report = to_dict(summarize(mapped, estimate(mapped, run, name), model="net"))
        for holder in (*report["accountings"].values(), report["host_only"]):
            for key in ("energy", "latency"):
                unit = {"energy": "uj", "latency": "us"}[key]
                value, ends = holder[f"{key}_{unit}"], holder[f"{key}_range_{unit}"]
                if not isinstance(value, dict):
                    value, ends = {"": value}, {"": ends}
                assert set(value) - {"segments"} == set(ends)
                for part, span in ends.items():
                    assert span is value[part] is None or span[0] <= value[part] <= span[1]


# in a notebook


def test_costs_read_well_in_a_notebook(runs):
    mapped, run = runs["chips"]
    cost = estimate(mapped, run)
    text = repr(cost)
    assert len(text.splitlines()) == 4 and max(map(len, text.splitlines())) < 80
    assert "loihi with jetson-orin-nano, 8 samples" in text
    assert str(cost.energy_uj.total) in text and str(cost.latency_us) in text
    assert str(cost.energy_uj).startswith(f"Energy(total {cost.energy_uj.total}: synapse ")
    summary = repr(summarize(mapped, cost, model="net", accuracy_float=0.5))
    assert summary.startswith("Summary(net, accuracy float 50.00%)\n")
    assert len(summary.splitlines()) == 6 and str(cost.latency_us) in summary
