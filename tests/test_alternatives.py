"""Mappings side by side: which takes the least, how sure that is, and where it would turn."""

import io
import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import hwsim
from has8 import create_model
from has8.errors import BadInput
from hwsim import alternative, estimate, least, simulate
from hwsim.price.breakeven import BreakEven, activity_crossing, batch_crossing, price_crossing
from hwsim.report.alternatives import alternatives_to_dict, render_alternatives
from hwsim.report.sentences import break_even, verdict
from mapping import load_target, map_model
from mapping.hosts.schema import load_host
from mapping.targets.figures import Figure

LOIHI = load_target("loihi")


@pytest.fixture(scope="module")
def ran():
    """A small net with nothing, half and all of it on the chip."""
    torch.manual_seed(0)
    model = create_model("has8_vgg", num_classes=10, in_channels=1, base=4, depth=1, head=(16,))
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8)
    with torch.no_grad():
        for _ in range(10):
            model(images)
    found = {}
    for name, partition in {"all": "all", "head": ["head.snn"], "none": "none"}.items():
        mapped = map_model(model, partition=partition, calibration=images)
        found[name] = mapped, alternative(name, mapped, images, labels)
    return images, found


def energies(mapped, run, host):
    cost = estimate(mapped, run, host)
    return cost.energy_uj.total.value, cost.host_only.energy_uj.value


def with_message_us(mapped, value, **others):
    times = {"message_us": value, **others}
    figures = {name: Figure.exact(time, "µs") for name, time in times.items()}
    link = msgspec.structs.replace(LOIHI.link, **figures)
    return replace(mapped, target=msgspec.structs.replace(LOIHI, link=link))


def test_at_a_break_even_the_board_takes_what_the_host_alone_does(ran):
    images, found = ran
    mapped, one = found["all"]
    run, host = simulate(mapped, images), load_host("jetson-orin-nano")
    places = {item.what: item for item in one.cost.break_even}
    assert set(places) == {"activity", "link.message_us", "idle_w", "batch"}
    time = places["link.message_us"]
    assert time.value is not None and time.below and time.now == 1.92
    board, alone = energies(with_message_us(mapped, time.value), run, host)
    assert board == pytest.approx(alone, rel=1e-9)
    near = with_message_us(mapped, time.value * 1.01)  # where the others turn nearby too
    places = {item.what: item for item in estimate(near, run, host).break_even}
    assert 0.9 < places["activity"].value < 1
    assert 3 < places["idle_w"].value < 4
    waits = msgspec.structs.replace(host, idle_w=Figure.exact(places["idle_w"].value, "W"))
    board, alone = energies(near, run, waits)
    assert board == pytest.approx(alone, rel=1e-9)


def test_no_host_draws_more_while_it_waits_than_while_it_works(ran):
    images, found = ran
    mapped, one = found["all"]
    run, host = simulate(mapped, images), load_host("jetson-orin-nano")
    places = {item.what: item for item in one.cost.break_even}

    def turn(share):
        value = places["link.message_us"].value * share
        cheaper = with_message_us(mapped, value, exchange_us=0.0)
        items = {item.what: item for item in estimate(cheaper, run, host).break_even}
        return items["idle_w"].value

    assert 12 < turn(0.35) < host.power_w.value == 15
    assert turn(0.25) is None  # it would be more


def test_more_activity_is_more_of_everything_but_visits(ran):
    _, found = ran
    load = found["all"][1].cost.loads[0]
    double = load.times(2)
    for event, counts in load.by_core.items():
        factor = 1 if event == "neuron_access" else 2
        assert (double.by_core[event] == factor * counts).all()
    assert double.messages == 2 * load.messages
    assert load.times(1).events() == load.events()
    assert load.times(0).messages == 0


@given(
    start=st.floats(-1e6, 1e6, allow_subnormal=False),
    slope=st.floats(-1e3, 1e3).filter(lambda x: abs(x) > 1e-3),
)
def test_a_straight_line_is_zero_where_it_says(start, slope):
    value, below = price_crossing(lambda x: start + slope * x, 3.0)
    assert below == (slope > 0)
    if value is None:
        assert start * slope >= 0
    else:
        assert start + slope * value == pytest.approx(0, abs=1e-6 * max(1, abs(start)))


def test_activity_turns_where_its_costs_do():
    assert activity_crossing(lambda a: max(a, 2 * a - 1) - 5)[0] == pytest.approx(3, rel=1e-3)
    assert activity_crossing(lambda a: a + 1)[0] is None  # even without a spike it is too much
    assert activity_crossing(lambda a: -1.0)[0] is None


def test_a_batch_shares_the_start_of_operations():
    batch = batch_crossing(board=30.0, macs=10.0, launching=100.0)
    assert batch == 5 and 10 + 100 / batch == 30
    assert batch_crossing(board=10.0, macs=10.0, launching=100.0) is None


def test_a_verdict_is_as_sure_as_ranges_and_draws_are():
    low, high = Figure(2.0, 1.0, 3.0, "µJ"), Figure(8.0, 4.0, 9.0, "µJ")
    assert verdict(low, high, 1.0).startswith("the chip pays: 0.25 times")
    assert verdict(high, low, 0.0).startswith("the chip does not pay: 4 times")
    wide = Figure(8.0, 2.0, 9.0, "µJ")
    open_to = "4 times the energy of the host alone by the best figures, less in"
    assert verdict(wide, low, 0.42) == f"open: {open_to} 42 % of draws"
    assert verdict(wide, low, 0.95) == f"the chip likely pays: {open_to} 95 % of draws"
    assert verdict(wide, low, 0.05) == f"the chip likely does not pay: {open_to} 5 % of draws"
    assert "inf times" in verdict(high, Figure.exact(0.0, "µJ"), 0.0)


def test_break_evens_are_told_in_words():
    items = (
        BreakEven("activity", 1.0, 0.5, "", True),
        BreakEven("link.message_us", 1.4, None, "µs", True),
        BreakEven("idle_w", 4.0, 2.25, "W", True),
        BreakEven("batch", 1.0, 0.4, "", True),
    )
    assert break_even(items) == (
        "at 0.5 times the activity; at no link.message_us; idle_w at 2.25 W (now 4)"
    )
    assert break_even([BreakEven("batch", 1.0, 3.0, "", True)]) == "the host alone in batches of 3"
    assert "batches of any size" in break_even([BreakEven("batch", 1.0, None, "", True)])


def test_the_least_is_so_in_a_share_of_the_draws(ran):
    _, found = ran
    every = [one for _, one in found.values()]
    best, share = least(every)
    assert best.board_uj.value == min(one.board_uj.value for one in every)
    totals = np.array([one.cost.draws["total"] for one in every])
    assert share == (totals.argmin(0) == every.index(best)).mean() > 1 / len(every)
    assert least(every[:1]) == (every[0], 1.0)
    with pytest.raises(BadInput, match="nothing to compare"):
        least([])


def test_all_run_the_same_samples_and_the_host_alone_is_the_same(ran):
    _, found = ran
    everything, head, nothing = (found[name][1] for name in ("all", "head", "none"))
    assert nothing.messages == 0 and 0 < head.messages < everything.messages
    assert {one.cost.samples for one in (everything, head, nothing)} == {8}
    assert everything.cost.host_only == head.cost.host_only == nothing.cost.host_only
    assert nothing.board_uj == nothing.cost.host_only.energy_uj and not nothing.cost.break_even
    assert all(0 <= one.accuracy <= 1 for one in (everything, head, nothing))


@pytest.mark.parametrize("width", [80, 110])
def test_a_table_has_a_column_each_and_every_range(ran, width):
    _, found = ran
    every = [one for _, one in found.values()]
    file = io.StringIO()
    render_alternatives(Console(file=file, width=width), "net", every)
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    assert "net on loihi with jetson-orin-nano, 8 samples" in text
    for word in ("the whole board", "host alone", "latency", "cores", "takes the least"):
        assert word in text
    total = every[0].board_uj
    assert hwsim.report.units.energy(total) in text
    assert hwsim.report.units.span(total, hwsim.report.units.energy) in text


def test_what_is_likely_better_is_green_and_likely_worse_red(ran):
    """One draw prices both, so that one spike in a hundred can be told where ranges overlap."""
    _, found = ran
    one = found["all"][1]

    def busier(factor):
        work = one.cost.work
        loads = tuple(load.times(factor) for load in work.loads)
        cost = replace(one.cost, work=replace(work, loads=loads))
        return replace(one, name=f"x{factor:g}", cost=cost)

    def page(others):
        file = io.StringIO()
        console = Console(file=file, width=100, force_terminal=True, color_system="standard")
        render_alternatives(console, "net", [one, *others])
        return file.getvalue()

    green, red = "\x1b[1;32m", "\x1b[1;31m"
    calmer, fuller, alone = (page(others) for others in ([busier(0.9)], [busier(1.1)], [one]))
    assert green in calmer and red not in calmer
    assert red in fuller and green not in fuller
    assert green not in alone and red not in alone
    assert busier(1.1).board_uj.low < one.board_uj.high


def test_a_dictionary_survives_json(ran):
    _, found = ran
    every = [one for _, one in found.values()]
    plain = alternatives_to_dict("net", every)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert [one["name"] for one in plain["alternatives"]] == ["all", "head", "none"]
    for one in plain["alternatives"]:
        low, best, high = one["energy_uj"]["total"]
        assert low <= best <= high
        assert low <= one["likely"]["total"][0] <= one["likely"]["total"][1] <= high
    assert plain["alternatives"][0]["below_first"] == 0.5
    assert plain["alternatives"][2]["verdict"] is None


def test_nothing_is_sure_of_a_host_whose_power_is_not_known(ran):
    images, found = ran
    every = [
        alternative(name, mapped, images, host="horowitz-45nm")
        for name, (mapped, _) in found.items()
    ]
    board, alone = every[0].board_uj, every[0].cost.host_only.energy_uj
    assert board.low > alone.high  # and yet
    text = alternatives_to_dict("net", every)["alternatives"][0]["verdict"]
    assert text.startswith("open:") and "but not what the host draws while it waits" in text
    file = io.StringIO()
    render_alternatives(Console(file=file, width=200), "net", every)
    assert "a sample, by what is known, but not what the host draws" in file.getvalue()


def test_mappings_on_other_targets_and_hosts_are_told_apart(ran):
    images, found = ran
    mapped = found["all"][0]
    mine = replace(mapped, target=msgspec.structs.replace(LOIHI, name="mine"))
    every = [
        found["all"][1],
        alternative("mine", mine, images),
        alternative("bigger", mapped, images, host="a100"),
    ]
    file = io.StringIO()
    render_alternatives(Console(file=file, width=120), "net", every)
    lines = [line.split() for line in file.getvalue().splitlines()]
    assert ["target", "loihi", "mine", "loihi"] in lines
    assert ["host", "jetson-orin-nano", "jetson-orin-nano", "a100"] in lines
    assert lines[0] == ["net,", "8", "samples,", "run", "mode", "gated"]
    plain = alternatives_to_dict("net", every)["alternatives"]
    assert [one["target"] for one in plain] == ["loihi", "mine", "loihi"]
    assert [one["host"] for one in plain][1:] == ["jetson-orin-nano", "a100"]
    with pytest.raises(BadInput, match="some ran 2 samples and some 8: run the same"):
        least([found["all"][1], alternative("few", mapped, images[:2])])
