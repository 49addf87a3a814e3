"""A summary as JSON and as a page in a terminal."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from builders import small_mapping
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hwsim import compare, estimate, simulate
from hwsim.activity import Overflow
from hwsim.experiments.divergence import Comparison, Divergence
from hwsim.price.assumptions import Assumption
from hwsim.price.learning import LearningPrice, Share
from hwsim.report import render, summarize, to_csv, to_dict, units
from hwsim.report.schema import Report, report_schema
from hwsim.report.trace import Trace
from mapping.partition.segments import Rejection
from mapping.targets.figures import Figure


@pytest.fixture(scope="module")
def summary():
    mapped, images = small_mapping()
    cost = estimate(mapped, simulate(mapped, images, apart=2), timing="events")
    verified = compare(mapped, images[:1], "fast", "reference")
    return summarize(mapped, cost, accuracy_float=0.75, accuracy_mapped=0.625, verified=verified)


def page(summary, width=80, **options):
    """What a pipe receives."""
    console = Console(file=io.StringIO(), width=width)
    render(console, summary, **options)
    return console.file.getvalue()


def squeezed(text):
    return " ".join(text.split())


KEYS = [
    "schema",
    "model",
    "target",
    "host",
    "samples",
    "accuracy",
    "reset",
    "verified",
    "provenance",
    "partition",
    "rejections",
    "quantization_error",
    "cores_used",
    "cores_lower_bound",
    "chips_used",
    "hops",
    "utilisation",
    "utilization",
    "synops",
    "macs",
    "energy_uj",
    "latency_us",
    "run_mode",
    "timing",
    "learning",
    "default_accounting",
    "accountings",
    "host_only",
    "likely",
    "range_drivers",
    "break_even",
    "convention_uj",
    "neurobench",
    "layers",
    "not_counted",
    "neurons",
    "boundaries",
    "traffic",
    "events_total",
    "overflow_total",
    "assumptions",
    "references",
]


def test_the_dictionary_survives_json_and_keeps_its_keys(summary):
    found = to_dict(summary)
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))
    assert list(found) == KEYS
    assert found["accuracy"] == {"float": 0.75, "mapped": 0.625}
    assert (found["model"], found["target"], found["samples"]) == ("has8_vgg", "loihi", 8)
    assert found["verified"]["equal"] is True and found["verified"]["backend"] == "reference"
    assert {"name", "side", "nodes", "reason"} <= set(found["partition"][0])
    assert set(found["neurobench"]) == {"Effective_MACs", "Effective_ACs", "Dense"}


def test_the_published_schema_types_every_key(summary):
    """``python docs/report_schema.py`` makes it anew."""
    published = Path(__file__).parent.parent / "docs" / "report.schema.json"
    assert json.loads(published.read_text("utf-8")) == report_schema()
    share = Share(Figure.exact(1.0, "µJ"), Figure.exact(2.0, "µs"))
    learning = LearningPrice(2, 3.0, 1.0, share, {"engine": share}, ())
    for one in (summary, replace(summary, verified=None), replace(summary, learning=learning)):
        plain = json.loads(json.dumps(to_dict(one), allow_nan=False))
        assert json.loads(msgspec.json.encode(msgspec.convert(plain, Report))) == plain


def test_csv_has_a_row_for_each_value(summary):
    rows = list(csv.reader(io.StringIO(to_csv(to_dict(summary)), newline="")))
    assert rows[0] == ["path", "value"] and rows[1] == ["schema", "has8-report-1"]
    found = dict(rows)
    assert len(found) == len(rows)
    assert float(found["likely.total.1"]) == to_dict(summary)["likely"]["total"][1]
    assert found["verified.equal"] == "true" and found["learning"] == ""


def test_the_dictionarys_numbers_agree_with_each_other(summary):
    found = to_dict(summary)
    bound = found["cores_lower_bound"]
    assert 1 <= bound["cores"] <= found["cores_used"]
    assert set(bound["by_resource"]) == set(found["utilisation"])
    assert bound["by_resource"][bound["resource"]] == max(bound["by_resource"].values())
    for name, share in found["utilisation"].items():
        if name != "list_words":
            used = found["cores_used"] * share["mean"]
            assert used <= bound["by_resource"][name] + 1e-9
    assert found["hops"]["bound"] <= found["hops"]["placed"] <= found["hops"]["snake"]
    for name, price in found["accountings"].items():
        energy = dict(price["energy_uj"])
        total, cores, events = (energy.pop(key) for key in ("total", "cores", "events"))
        assert total == pytest.approx(sum(energy.values())), name
        assert events == pytest.approx(energy["synapse"] + energy["soma"] + energy["network"])
        assert cores == pytest.approx(events + energy["used_cores"])
        parts = {k: v for k, v in price["latency_us"].items() if k not in ("total", "segments")}
        assert price["latency_us"]["total"] == pytest.approx(sum(parts.values()))
    default = found["accountings"][found["default_accounting"]]
    assert found["energy_uj"] == default["energy_uj"]
    assert found["latency_us"] == default["latency_us"]["total"]
    layers = found["layers"]
    assert found["synops"] == sum(x["synops"] for x in layers if x["side"] == "chip")
    assert found["macs"] == sum(x["dense"] for x in layers if x["side"] == "host")
    assert all(x["synops_total"] == x["synops"] * found["samples"] for x in layers)
    assert sum(s["cores"] for s in found["partition"]) == found["cores_used"]
    inbound = [b for b in found["boundaries"] if b["direction"] == "in"]
    assert all(b["message_bytes"] == 4 * b["messages"] >= 4 * b["spikes"] for b in inbound)
    assert inbound[0]["dense_bytes"] == 8 * 8  # an image of 64 pixels in 8 planes of a bit


def test_learning_is_priced_beside_answering_where_it_was_asked_for(summary):
    share = Share(Figure.exact(2000.0, "µJ"), Figure(3.0, 1.0, 9.0, "µs"))
    parts = dict.fromkeys(("engine", "steps", "host"), share)
    told = Assumption("An update costs a dime.")
    price = LearningPrice(50, 80.0, 1.5, share, parts, (told,))
    assert to_dict(summary)["learning"] is None
    found = to_dict(replace(summary, learning=price))["learning"]
    assert (found["samples"], found["updates"]) == (50, 80.0)
    assert found["energy_uj"] == dict.fromkeys(("inference", *parts), 2000.0) | {"total": 8000.0}
    assert found["latency_range_us"]["total"] == [4.0, 36.0]
    text = squeezed(page(replace(summary, learning=price)))
    assert "learning 8.00 mJ 12.0 µs 4.00 to 36.0 µs" in text and told.text in text
    assert "Learning one sample" not in page(summary)


def test_steps_and_throughput_are_those_of_the_latency(summary):
    cost, found = summary.cost, to_dict(summary)["timing"]
    time, steps = cost.price.latency, found["steps"]
    for run in time.segments:
        if run.side == "chip":
            own = [step for step in steps if step["segment"] == run.name]
            assert [step["step"] for step in own] == list(range(run.steps))
            parts = run.work_us.value, run.barrier_us.value, run.management_us.value
            assert sum(step["us"] for step in own) == pytest.approx(sum(parts))
    for step in steps:
        assert sum(step["waits_us"].values()) == pytest.approx(step["us"])
        assert max(step["waits_us"].values()) == step["waits_us"][step["bottleneck"]]
    assert {step["bottleneck"] for step in steps} >= {"management"}
    assert found["name"] == "events" and {step["waits_us"]["barrier"] for step in steps} == {0.6}
    busy, rate = found["busy_us"], found["samples_per_s"]
    both = -time.overlap_us.value
    assert sum(busy.values()) == pytest.approx(time.total_us.value + both)
    assert 1e6 / rate["one_by_one"] == time.total_us.value
    assert both == pytest.approx(sum(found["meanwhile_us"].values())) and both > 0
    assert busy[found["bound_by"]] == max(busy.values()) == pytest.approx(1e6 / rate["overlapping"])
    text = squeezed(page(summary, full=True))
    assert f"computes for {units.time(both)} while the chip has the sample" in text
    assert f"{rate['one_by_one']:,.3g} samples a second one by one, at most" in text
    assert "Steps on the chip" in text and "management in " in text


@pytest.mark.parametrize("run_mode", ["gated", "reset"])
def test_a_trace_has_every_core_and_adds_up_to_the_latency(summary, run_mode):
    """Two samples, one behind the other; on no track do slices overlap, on none is one too long."""
    mapped, trace = summary.cost.work.mapped, Trace()
    costs = []
    for image in torch.rand(2, 1, 1, 8, 8):
        run = simulate(mapped, image, apart=1)
        costs.append(estimate(mapped, run, run_mode=run_mode, timing="events"))
        trace.add(costs[-1])
    found = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    slices = [event for event in found["traceEvents"] if event["ph"] == "X"]
    names = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in found["traceEvents"]
        if event["name"] == "thread_name"
    }
    tracks = {place: [] for place in names}
    for event in slices:
        tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for spans in tracks.values():
        ends = [end for _, end in sorted(spans)]
        starts = [start for start, _ in sorted(spans)]
        assert all(end <= start + 1e-6 for end, start in zip(ends, starts[1:], strict=False))
    ends = [sum(one.latency_us.value for one in costs[: n + 1]) for n in range(2)]
    assert max(event["ts"] + event["dur"] for event in slices) == pytest.approx(ends[1])
    cores = [name for name in names.values() if name.startswith("core ")]
    assert len([name for name in cores if name.endswith(" neurons")]) == mapped.placement.cores_used
    assert any(name.startswith("core 0 (") and name.endswith(" messages") for name in cores)
    parts = [one.price.latency for one in costs]
    barriers = [e["dur"] for e in slices if e["name"] == "barrier"]
    assert sum(barriers) == pytest.approx(sum(part.barrier_us.value for part in parts))
    chips = [e["dur"] for e in slices if e["name"].startswith("step ")]
    assert sum(chips) == pytest.approx(sum(part.chip_us.value for part in parts))
    chain = [e["dur"] for e in slices if names[e["pid"], e["tid"]] == "longest chain"]
    assert sum(chain) == pytest.approx(sum(chips))


def test_what_is_unknown_is_null_and_says_why(summary):
    bare = replace(summary, accuracy_float=None, accuracy_mapped=None, verified=None)
    found = to_dict(replace(bare, unverified="Lava is not installed"))
    assert found["accuracy"] == {"float": None, "mapped": None}
    assert found["verified"] == {
        "backend": None,
        "samples": 0,
        "equal": None,
        "reason": "Lava is not installed",
    }
    text = squeezed(page(replace(bare, unverified="Lava is not installed")))
    assert "verified no: Lava is not installed" in text and "accuracy" not in text
    assert "verified" not in page(bare)


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("full", [False, True])
def test_a_page_fits_its_width_and_a_pipe_gets_no_colour(summary, width, full):
    lines = page(summary, width, full=full).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("\x1b" in line or "…" in line for line in lines)


def test_a_page_says_what_matters(summary):
    text = squeezed(page(summary))
    assert "has8_vgg on loihi with jetson-orin-nano" in text
    assert "float 75.00 %, mapped 62.50 %, over 8 samples" in text
    assert "reference equals fast" in text
    assert units.energy(summary.cost.energy_uj.total) in text
    assert units.time(summary.cost.latency_us) in text
    for name in (*summary.cost.prices, *(s.name for s in summary.partition)):
        assert name in text


def test_reasons_are_gathered(summary):
    nodes = [Rejection(f"n{i}", "the target has no add of spikes") for i in range(5)]
    mixed = replace(summary, rejections=(*nodes, Rejection("m", "its neuron stays on the host")))
    short = squeezed(page(mixed))
    assert short.count("the target has no add of spikes") == 1
    assert "(5 nodes: n0, n1, n2 and 2 more)" in short and "(1 node: m)" in short
    assert "(5 nodes: n0, n1, n2, n3, n4)" in squeezed(page(mixed, full=True))


def test_the_full_page_has_every_assumption_with_source_and_title(summary):
    short, full = squeezed(page(summary)), squeezed(page(summary, full=True))
    items = summary.cost.assumptions
    assert all(squeezed(str(item)) in full for item in items)
    assert all((squeezed(item.text) in short) == item.main for item in items)
    assert f"and {sum(not item.main for item in items)} more" in short
    assert "IEEE Micro 38(1):82-99, 2018" in full


def test_the_full_page_parts_sentences_figures_caveats_and_sources(summary):
    lines = page(summary, 100, full=True).splitlines()
    titles = ["Assumptions", "Other figures that the prices rest on", "Caveats", "Sources"]
    places = [lines.index(title) for title in titles]
    assert places == sorted(places)
    figures = squeezed(" ".join(lines[places[1] : places[2]]))
    assert "Accounting sanafe: synop_conv 24 pJ, 3.1 ns;" in figures
    assert "Other figures" not in page(summary)


def test_an_energy_is_shown_with_its_range(summary):
    total = summary.cost.energy_uj.total
    assert total.low < total.value < total.high
    shown = units.behind(total, units.energy, summary.cost.draws["total"])
    assert ", likely " in shown
    assert f"{units.energy(total)} a sample{shown}" in squeezed(page(summary))
    assert units.span(Figure.exact(5.0, "µJ"), units.energy) == ""
    assert units.behind(Figure.exact(5.0, "µJ"), units.energy) == ""
    assert units.behind(Figure(2e3, 1e3, 3e3, "µJ"), units.energy) == " (1.00 to 3.00 mJ)"
    assert units.span(Figure(2e3, 1.0, 3e3, "µJ"), units.energy) == "1.00 µJ to 3.00 mJ"
    assert units.span(Figure(2e3, 0.0, 3e3, "µJ"), units.energy) == "0 to 3.00 mJ"


def test_a_difference_between_backends_is_loud(summary):
    where = Divergence("s", "blocks.0.snn.1", 3, 0, (1, 2, 3), 1, 0)
    differs = replace(summary, verified=Comparison("fast", "lava", 1, 10, where))
    text = squeezed(page(differs))
    assert "lava differs from fast: blocks.0.snn.1 at step 3, sample 0, neuron (1, 2, 3)" in text
    assert to_dict(differs)["verified"]["equal"] is False


def test_names_are_never_taken_for_markup(summary):
    assert "[bold]net[/x]" in page(replace(summary, model="[bold]net[/x]"))


def test_overflows_are_shown_only_where_there_are_any(summary):
    none = replace(summary, cost=replace(summary.cost, overflow=Overflow()))
    some = replace(summary, cost=replace(summary.cost, overflow=Overflow(1, 20_000)))
    assert "overflow" not in page(none)
    assert "1 current wrapped, 20,000 membranes clipped" in squeezed(page(some))


def test_without_a_chip_there_is_nothing_to_price_on_it(summary):
    cost = replace(summary.cost, cores_used=0, chips_used=0)
    assert "accounting" not in page(replace(summary, cost=cost)).split("Assumptions")[0]


@pytest.mark.parametrize(
    ("given_uj", "text"),
    [(0, "0.00 µJ"), (0.00123, "1.23 nJ"), (9.996, "10.0 µJ"), (999.6, "1.00 mJ"), (2e6, "2.00 J")],
)
def test_energies_read_well(given_uj, text):
    assert units.energy(given_uj) == text


def test_counts_and_shares_read_well():
    assert [units.count(n) for n in (0, 7, 99_999, 100_000, 1_813_561_344)] == [
        "0",
        "7",
        "99,999",
        "100 k",
        "1.81 G",
    ]
    assert [units.percent(s) for s in (0, 0.001, 0.5, 1)] == ["0 %", "<1 %", "50 %", "100 %"]
    assert (units.many(1, "core"), units.many(2000, "core")) == ("1 core", "2,000 cores")


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=8))
def test_a_column_has_one_unit_and_keeps_every_value_but_the_smallest(values):
    unit, texts = units.column(values, units.ENERGY, "µJ")
    factor = 1000.0 ** (units.ENERGY.index("µJ") - units.ENERGY.index(unit))
    assert len({len(text.rpartition(".")[2]) for text in texts}) == 1
    for value, text in zip(values, texts, strict=True):
        if text.startswith("<"):
            assert 0 < value * factor < float(text[1:])
        else:
            assert float(text.replace(",", "")) == pytest.approx(value * factor, abs=0.0501)
