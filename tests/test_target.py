"""Targets and hosts: every figure has a source, and a wrong file is answered with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import BRANCHES_IN, Branches
from hypothesis import given
from hypothesis import strategies as st

import mapping
from has8.errors import BadInput, TargetError, UnknownName
from hwsim import estimate, simulate
from hwsim.price.timing import barrier_ns
from hwsim.report import summarize
from hwsim.report.terminal import headline
from mapping.chip.grid import stored_bits, weight_grid
from mapping.hosts.schema import Host, host_names, load_host
from mapping.targets.figures import Figure, Trust
from mapping.targets.prices import EVENTS
from mapping.targets.schema import Registers, Target, load_target, target_names
from mapping.targets.sheets import Citation, Sheet, figures_of
from mapping.targets.topology import Topology

LOIHI = load_target("loihi")
FILE = Path(mapping.__file__).parent / "targets" / "loihi.yaml"


def figures(value: object, path: str = "") -> list[str]:
    """Paths of all values that are no texts, citations and titles aside."""
    if isinstance(value, msgspec.Struct) and not isinstance(value, Figure):
        value = {field: getattr(value, field) for field in value.__struct_fields__}
    if isinstance(value, dict):
        parts = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
        skipped = ("citations", "caveats", "references")
        return [found for at, item in parts if at not in skipped for found in figures(item, at)]
    return [] if value is None or isinstance(value, str) else [path]


def changed(tmp_path: Path, old: str, new: str) -> Path:
    """The bundled file with one text replaced."""
    text = FILE.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


# every figure has a source


@pytest.mark.parametrize("name", target_names())
def test_every_figure_of_a_target_is_cited(name: str) -> None:
    target = load_target(name)
    assert set(figures(target)) == set(target.citations)
    assert all(citation.source for citation in target.citations.values())


def test_cores_that_networks_cannot_use_are_the_last_of_a_chip() -> None:
    chip = load_target("loihi2").chip
    assert chip.cores == 120
    first, second = (Topology.of(chip).position(number) for number in (119, 120))
    assert (first.chip, second.chip, second.on_chip) == (0, 1, 0)
    with pytest.raises(ValueError, match="usable_cores is 129, more than the mesh has"):
        msgspec.structs.replace(chip, usable_cores=129)


@pytest.mark.parametrize("name", host_names())
def test_every_figure_of_a_host_is_cited(name: str) -> None:
    host = load_host(name)
    assert set(figures(host)) == set(host.citations)


def test_a_citation_is_the_nearest_one() -> None:
    cited = LOIHI.citations
    assert cited["registers.state_bits"] == Citation(
        source="NL and LV, bit-accurate LIF", trust="P"
    )
    assert cited["registers.keep_top"] == Citation(source="LV", trust="P")
    assert cited["accountings.davies2018.events.neuron_update.pj"].trust == "D"
    assert cited["accountings.davies2018.events.synop_conv.pj"].trust == "Q"


@pytest.mark.parametrize("sheet", [LOIHI, *map(load_host, host_names())], ids=lambda s: s.name)
def test_every_figure_knows_its_place_and_source(sheet: Sheet) -> None:
    found = [*figures_of(sheet)]
    assert found
    assert {figure.path for figure in found} <= set(figures(sheet))
    for figure in found:
        assert figure.sheet == sheet.name
        assert figure.cited == {figure}
        cited = sheet.citations[figure.path]
        assert (figure.source, figure.trust) == (cited.source, cited.trust)


def test_every_price_of_a_target_is_a_figure() -> None:
    plain = set(figures(LOIHI)) - {figure.path for figure in figures_of(LOIHI)}
    assert {path.partition(".")[0] for path in plain} == {
        "registers",
        "core",
        "chip",
        "accountings",
    }
    overlaps = {f"accountings.{name}.overlaps" for name in LOIHI.accountings}
    assert {path for path in plain if path.startswith("accountings.")} == overlaps
    assert {path for path in plain if path.startswith("chip.")} == {
        "chip.mesh_width",
        "chip.mesh_height",
        "chip.cores_per_tile",
        "chip.board_height",
        "chip.link_buffer",
        *(
            f"chip.boards.{name}.{part}"
            for name in LOIHI.chip.boards
            for part in ("chips", "height")
        ),
    }


def test_a_published_range_is_kept() -> None:
    static = LOIHI.power.static_mw
    assert (static.low, static.value, static.high, static.unit) == (19.8, 91.8, 267.0, "mW")
    exact = LOIHI.accounting("sanafe").events["synop_conv"].pj
    assert exact.low == exact.value == exact.high == 24.0


def test_every_reference_is_used() -> None:
    for sheet in (LOIHI, *map(load_host, host_names())):
        sources = " ".join(citation.source for citation in sheet.citations.values())
        assert all(re.search(rf"\b{key}\b", sources) for key in sheet.references)


# the values


def test_limits_of_loihi() -> None:
    assert LOIHI.core.limits == {
        "neurons": 1024,
        "input_axons": 4096,
        "output_axons": 4096,
        "synapse_bits": 1_048_576,
        "list_words": 256,
        "synapse_formats": 7,
        "threshold_configs": 8,
        "compartment_configs": 32,
    }
    assert LOIHI.chip.cores == 128


def test_energies_of_loihi() -> None:
    sanafe, davies = LOIHI.accounting(), LOIHI.accounting("davies2018")
    assert sanafe is LOIHI.accounting("sanafe")
    conv = sanafe.events["synop_conv"]
    assert (conv.pj.value, conv.ns.value) == (24.0, 3.1)
    assert davies.events["synop_dense"].pj.value == 23.6
    # the paper's 81 pJ of an active neuron are an access and an update
    active = davies.events["neuron_access"].pj + davies.events["neuron_update"].pj
    assert active.value == pytest.approx(81.0)
    assert all(set(one.events) == set(EVENTS) for one in (sanafe, davies))
    with pytest.raises(UnknownName, match="did you mean 'sanafe'"):
        LOIHI.accounting("sana-fe")


def test_the_barrier_is_read_off_the_tables() -> None:
    sanafe, davies = LOIHI.accounting("sanafe"), LOIHI.accounting("davies2018")
    assert barrier_ns(LOIHI, sanafe, 2).value == 1000
    assert barrier_ns(LOIHI, sanafe, 32).value == 1800
    assert barrier_ns(LOIHI, davies, 1).value == 113
    assert barrier_ns(LOIHI, sanafe, 3).value == pytest.approx(1200)
    assert barrier_ns(LOIHI, sanafe, 29, chips=256).value == 14300
    assert 1800 < barrier_ns(LOIHI, sanafe, 29, chips=2).value < 14300


@given(st.integers(1, 8), st.sampled_from(LOIHI.registers.sign_modes))
def test_a_grid_has_one_mantissa_for_each_code(bits: int, sign_mode: str) -> None:
    low, high, step = weight_grid(LOIHI.registers, bits, sign_mode)
    grid = range(low, high + 1, step)
    assert len(grid) == 2**bits
    stored = stored_bits(LOIHI.registers, bits)
    wide_low, wide_high, wide_step = weight_grid(LOIHI.registers, stored, sign_mode)
    assert set(grid) <= set(range(wide_low, wide_high + 1, wide_step))
    assert grid[-1] == high
    assert 0 in grid


def test_weight_grids_of_eight_bits() -> None:
    assert weight_grid(LOIHI.registers, 8, "mixed") == (-256, 254, 2)
    assert weight_grid(LOIHI.registers, 8, "excitatory") == (0, 255, 1)
    assert weight_grid(LOIHI.registers, 8, "inhibitory") == (-255, 0, 1)
    assert weight_grid(LOIHI.registers, 4, "mixed") == (-256, 224, 32)
    assert weight_grid(LOIHI.registers, 2, "mixed") == (-256, 128, 128)
    assert weight_grid(LOIHI.registers, 1, "mixed") == (-256, 0, 256)


def test_seven_bits_are_stored_in_eight() -> None:
    assert [stored_bits(LOIHI.registers, bits) for bits in range(1, 9)] == [1, 2, 3, 4, 5, 6, 8, 8]


def test_a_weight_that_cannot_be_stored_is_refused() -> None:
    for bits in (0, 9):
        with pytest.raises(BadInput, match=f"weights of {bits} bits cannot be stored; .* 1 to 8"):
            weight_grid(LOIHI.registers, bits, "mixed")
    with pytest.raises(BadInput, match="sign mode 'both' is not supported"):
        weight_grid(LOIHI.registers, 8, "both")


@pytest.mark.parametrize("name", host_names())
def test_a_price_of_a_host_is_its_power_over_its_peak(name: str) -> None:
    host = load_host(name)
    at_peak = host.peak_pj_per_mac.value
    assert host.pj_per_mac.value == pytest.approx(at_peak / host.utilisation.value)
    if host.power_w is not None and host.peak_gmacs is not None:
        assert at_peak == pytest.approx(1000 * host.power_w.value / host.peak_gmacs.value, rel=0.01)


def test_the_measured_host_agrees_with_its_measurement() -> None:
    host = load_host("jetson-tx1")
    latency = host.latency_us(172_800, launches=3)
    assert latency is not None and host.power_w is not None
    assert latency.value == pytest.approx(1e6 / 419, rel=0.01)
    energy = host.pj_per_mac * 172_800
    assert energy.value == pytest.approx(1e12 * host.power_w.value / 419, rel=0.01)


def test_literature_constants() -> None:
    host = load_host("horowitz-45nm")
    assert (host.pj_per_mac.value, host.pj_per_ac.value) == (4.6, 0.9)
    assert host.latency_us(1_000_000, launches=3) is None


# there and back


def test_a_target_survives_json() -> None:
    for kind, value in ((Target, LOIHI), (Host, load_host())):
        assert msgspec.json.decode(msgspec.json.encode(value), type=kind) == value


@given(
    st.sampled_from([*figures_of(LOIHI)]),
    st.floats(1.0, 1e9),
    st.floats(1.0, 1e9),
    st.sampled_from(["", "my board"]),
    st.sampled_from("PQSDM"),
)
def test_any_target_survives_json(
    figure: Figure, value: float, more: float, source: str, trust: Trust
) -> None:
    value = value // 1  # messages have whole bits
    mine = Figure(value, 1.0, value + more // 1, figure.unit, source, trust)
    target = with_entry(LOIHI, figure.path, mine)
    again = msgspec.json.decode(msgspec.json.encode(target), type=Target)
    assert again == target != LOIHI
    assert msgspec.json.encode(again) == msgspec.json.encode(target)
    (placed,) = (one for one in figures_of(target) if one.path == figure.path)
    assert placed == msgspec.structs.replace(mine, sheet="loihi", path=figure.path)
    assert (figure.path in target.citations) == bool(source)


def with_entry(value: object, path: str, figure: Figure) -> Any:
    """The structure with another figure at a path."""
    key, _, rest = path.partition(".")
    if isinstance(value, Mapping):
        keys = {str(name): name for name in value}
        new = with_entry(value[keys[key]], rest, figure) if rest else figure
        return {**value, keys[key]: new}
    assert isinstance(value, msgspec.Struct)
    new = with_entry(getattr(value, key), rest, figure) if rest else figure
    return msgspec.structs.replace(value, **{key: new})


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (5.0, "expected a Figure, found 5.0; write Figure.exact"),
        (Figure.exact(5.0, "ms"), "is in µs, not in ms"),
        (Figure.exact(5.0), "is in µs, not in none"),
        (Figure.exact(-5.0, "µs"), "Expected float >= 0.0, found -5"),
        (Figure(5.0, -5.0, 6.0, "µs"), "Expected float >= 0.0, found -5"),
        (Figure(5.0, 5.0, float("inf"), "µs"), "must be a finite number, found inf"),
    ],
)
def test_a_figure_that_does_not_suit_its_place_is_refused(entry: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=f"link.exchange_us: {re.escape(problem)}"):
        with_entry(LOIHI, "link.exchange_us", entry)


@pytest.mark.parametrize(
    ("path", "field", "number"),
    [
        (("link", "exchange_us"), "low", -1.0),
        (("link", "message_us"), "high", 1.0),
        (("link", "bits_per_message"), "value", 31.5),
        (("chip", "chip_link_slowdown"), "low", 0.5),
    ],
)
def test_damaged_json_is_refused(path: tuple[str, str], field: str, number: float) -> None:
    plain = json.loads(msgspec.json.encode(LOIHI))
    plain[path[0]][path[1]][field] = number
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(plain), type=Target)


def test_registers_do_not_change_and_take_no_others() -> None:
    with pytest.raises(AttributeError):
        LOIHI.registers.state_bits = 32  # type: ignore[misc]
    plain = msgspec.to_builtins(LOIHI.registers)
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({**plain, "more": 1}, Registers)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = changed(tmp_path, "neurons: {value: 1024,", "neurons: {value: 512,")
    assert load_target(path).core.neurons == load_target(str(path)).core.neurons == 512


def test_sources_may_be_left_out(tmp_path: Path) -> None:
    path = changed(
        tmp_path,
        'neurons: {value: 1024, source: "D18; NL block.py; NX optimization.py", trust: P}',
        "neurons: 512",
    )
    target = load_target(path)
    assert target.core.neurons == 512
    assert "core.neurons" not in target.citations


# what is wrong with a file


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "threshold_max:",
            "treshold_max:",
            "registers.treshold_max: unknown key, did you mean threshold_max?",
        ),
        ("  threshold_max: 131071\n", "", "registers.threshold_max: is missing; add it"),
        (
            "state_bits: 24",
            "state_bits: 99",
            "registers.state_bits: Expected int <= 48, found 99",
        ),
        (
            "synop_conv: {pj: 24.0, ns: 3.1}",
            "synop_conv: {pj: 24e-12, ns: 3.1}",
            "accountings.sanafe.events.synop_conv.pj: Expected float, got str, found '24e-12'; "
            "YAML takes this for text, write 2.4e-11",
        ),
        (
            "synop_conv: {pj: 24.0, ns: 3.1}",
            "synop_conf: {pj: 24.0, ns: 3.1}",
            "accountings.sanafe.events: Invalid enum value 'synop_conf', found 'synop_conf'",
        ),
        (
            "      synop_conv: {pj: 24.0, ns: 3.1}\n",
            "",
            "accountings.sanafe: events lacks synop_conv",
        ),
        (
            "{value: 22, ".replace("22", "3.44"),
            "{value: 0, ",
            "chip.tile_spikes_per_ns: Expected float >= 1e-15, found 0",
        ),
        (
            "source: D18 Table 2, trust: Q}\n  chip_link",
            "source: D18 Table 2, trust: X}\n  chip_link",
            "chip.tile_spikes_per_ns: Invalid enum value 'X' - at $.trust",
        ),
        (
            "{value: 10.0, low: 0.8, high: 10.0, ",
            "{value: 340.0, low: 400, ",
            "link.pj_per_bit: the value 340 lies outside of its range, 400 to 340",
        ),
        (
            "{value: 10.0, low: 0.8, high: 10.0, ",
            "{value: 340.0, high: 1e3, ",
            "link.pj_per_bit.high: Expected float, got str, found '1e3'; "
            "YAML takes this for text, write 1000.0",
        ),
        (
            "{value: 10.0, low: 0.8, high: 10.0, ",
            "{value: 340.0, low: -1, ",
            "link.pj_per_bit.low: Expected float >= 0.0, found -1",
        ),
        (
            "{value: 10.0, low: 0.8, high: 10.0, ",
            "{value: .inf, ",
            "link.pj_per_bit: must be a finite number, found inf",
        ),
        (
            "{value: 10.0, low: 0.8, high: 10.0, ",
            "{low: 340.0, ",
            "link.pj_per_bit.value: is missing; add it",
        ),
        (
            "{value: 10.0, low: 0.8, high: 10.0, ",
            "{value: 340.0, hihg: 400, ",
            "link.pj_per_bit.hihg: unknown key, known are value, low, high, source, trust",
        ),
        (
            "bits_per_message: {value: 32, ",
            "bits_per_message: {value: 32.5, ",
            "link.bits_per_message: Expected int, got float, found 32.5",
        ),
        (
            '{value: 1024, source: "D18; NL block.py; NX optimization.py"',
            '{value: 1024, high: 2048, source: "D18; NL block.py; NX optimization.py"',
            "core.neurons: is a limit and takes no range; leave out low and high",
        ),
        ("link:\n", "link: 3\nlunk:\n", "lunk: unknown key, did you mean link?"),
        (
            "default_accounting: sanafe",
            "default_accounting: mine",
            "default_accounting 'mine' is not described",
        ),
        (
            "index_bits: [0, 6, 7, 8, 9, 10, 11, 12]",
            "index_bits: [0, 6]",
            "core: packing.index_bits must be wide enough for all neurons of a core",
        ),
    ],
)
def test_a_wrong_entry_is_named_with_its_path(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(TargetError) as caught:
        load_target(path)
    assert str(caught.value).startswith(f"{path}: {problem}")


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = Path(load_target.__code__.co_filename).with_name("loihi.yaml").read_text()
    for old, new in (
        ("  threshold_max: 131071\n", "  treshold_max: 131071\n"),
        ("state_bits: 24", "state_bits: 99"),
        ("synapse_formats: {value: 7,", "synapse_formats: {value: -7,"),
        ("synop_conv: {pj: 24.0, ns: 3.1}", "synop_conv: {pj: much, ns: -1}"),
    ):
        text = text.replace(old, new)
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(TargetError) as caught:
        load_target(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: registers.treshold_max: unknown key")
    for entry in (
        "registers.threshold_max: is missing",
        "registers.state_bits: Expected int <= 48, found 99",
        "core.synapse_formats: Expected int >= 1, found -7",
        "accountings.sanafe.events.synop_conv.pj: Expected float",
        "accountings.sanafe.events.synop_conv.ns: Expected float >= 0.0, found -1",
    ):
        assert said.count(entry) == 1, entry
    path.write_text("name: mine\n" + "".join(f"wrong{number}: 1\n" for number in range(40)))
    with pytest.raises(TargetError, match=r"wrong19: .*; and \d+ more$"):
        load_target(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("weight_magnitude_bits: 8", "weight_magnitude_bits: 64"),
        ("synapse_shift: 6", "synapse_shift: 2147483648"),
        ("threshold_shift: 6", "threshold_shift: 2147483648"),
        ("threshold_max: 131071", "threshold_max: 281474976710656"),
        ("weight_exp_min: {value: -7", "weight_exp_min: {value: -2147483648"),
        ("weight_exp_max: {value: 7", "weight_exp_max: {value: 2147483648"),
        ("bias_exp_max: 7", "bias_exp_max: 2147483648"),
        ("bias_min: {value: -4095", "bias_min: {value: -100000000000000000000"),
        ("bias_max: {value: 4095", "bias_max: {value: 281474976710656"),
        ("current_decay_offset: 1", "current_decay_offset: 1000000"),
        ("neurons: {value: 1024", "neurons: {value: 100000000000000000000"),
        ("word_bits: 64", "word_bits: 100000000"),
    ],
)
def test_registers_that_no_chip_has_are_refused(tmp_path: Path, old: str, new: str) -> None:
    if "281474976710656" in new:  # each in its range, but not together
        path = changed(tmp_path, old, new)
        text = path.read_text()
        for shift in ("threshold_shift: 6", "bias_exp_max: 7"):
            text = text.replace(shift, shift[:-1] + "20")
        path.write_text(text)
    else:
        path = changed(tmp_path, old, new)
    with pytest.raises(TargetError, match=r"Expected int|may have 62 at most|64 bits"):
        load_target(path)


def test_a_list_where_a_section_belongs(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text("- 1\n- 2\n", encoding="utf-8")
    with pytest.raises(
        TargetError, match="expected a mapping of names to entries, found \\[1, 2\\]"
    ):
        load_target(path)


def test_wrong_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ndescription: [1, 2\nmore: 3\n", encoding="utf-8")
    with pytest.raises(TargetError, match=re.escape(f"{path}: line 3: ")):
        load_target(path)
    path.write_text("name: mine\nname: yours\n", encoding="utf-8")
    with pytest.raises(TargetError, match="line 2: the key 'name' stands twice"):
        load_target(path)


def test_missing_files_and_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"none\.yaml: cannot be read .* check the path"):
        load_target(tmp_path / "none.yaml")
    with pytest.raises(TargetError, match="cannot be read"):
        load_target("./loihi")
    with pytest.raises(UnknownName, match=r"unknown target 'loihy': did you mean 'loihi'\?"):
        load_target("loihy")
    with pytest.raises(UnknownName, match=r"unknown host 'jetson': did you mean 'jetson-tx1'\?"):
        load_host("jetson")
    with pytest.raises(UnknownName, match=r"unknown board 'nahuk': did you mean 'nahuku'\?"):
        LOIHI.on_board("nahuk")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: " + "x" * 10**5 + "\nodd: 1\n", "odd: unknown key"),
        ("name: &a [*a]\n", "description: is missing"),
        ("[" * 100_000, "is nested deeper than any description"),
        ("# " + "x" * 10**6, "is longer than 1,000,000 bytes"),
        ("\x00", "mine.yaml: not YAML"),
    ],
)
def test_odd_yaml_is_refused_in_one_short_sentence(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(TargetError) as caught:
        load_target(path)
    said = str(caught.value)
    assert problem in said and len(said) < len(str(path)) + 420 and "\n" not in said


def test_aliases_of_aliases_are_not_written_out(tmp_path: Path) -> None:
    """A kilobyte that stands for 9**12 words, where texts are expected."""
    lists = "".join(
        f"  - &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]\n" for n in range(12)
    )
    path = changed(tmp_path, "\ncaveats:\n", f"\ncaveats:\n{lists}")
    with pytest.raises(TargetError, match="caveats: Expected str, got array") as caught:
        load_target(path)
    assert len(str(caught.value)) < len(str(path)) + 420


def test_a_target_of_narrow_weights_has_its_widest_by_default() -> None:
    """As many bits as it stores, if fewer than 8; a report says so, in a line beside the cores."""
    narrow = msgspec.structs.replace(LOIHI.registers, weight_bits=(1, 2, 4))
    target = msgspec.structs.replace(LOIHI, name="narrow", registers=narrow)
    options: dict[str, Any] = {"calibration": BRANCHES_IN, "inputs": "spikes"}
    mapped = mapping.map_model(Branches(), target, **options)
    assert mapped.provenance["weight_bits"] == 4
    summary = summarize(mapped, estimate(mapped, simulate(mapped, BRANCHES_IN)), model="branches")
    lines = {what: text.plain for what, text in headline(summary)}
    assert lines["weights"] == "4 bits, the widest that narrow stores"
    with pytest.raises(BadInput, match="choose from 1 to 4"):
        mapping.map_model(
            Branches(), target, calibration=BRANCHES_IN, inputs="spikes", weight_bits=8
        )
