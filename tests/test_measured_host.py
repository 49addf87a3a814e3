"""A host that is measured: what shows power, and how the figures enter prices."""

import json
import sys
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch

from has8 import load_checkpoint, load_data
from has8.cli import main
from has8.errors import BackendError, BadInput
from hwsim import estimate, measure_host, simulate
from hwsim.experiments import host as measuring
from hwsim.experiments import meters
from hwsim.experiments.meters import Counters, Sampled, nvml, rapl
from mapping import map_model
from mapping.hosts.schema import ALONE, Measured, load_host
from mapping.targets.figures import Figure

DIGITS = Path(__file__).parent.parent / "examples" / "models" / "digits.pt"
ZONES = {"0": "package-0", "0:0": "core", "0:1": "dram", "1": "psys", "2": "package-1"}
"""As Linux names them: the cores are in their package, and psys has all."""


@pytest.fixture(autouse=True)
def one_thread():
    """Runs of so little take far longer where several threads wait for a core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# What shows power


def counter(folder, zone, energy=None, most=1000):
    """A zone's files, or another reading of it."""
    home = folder / f"intel-rapl:{zone}"
    if energy is None:
        home.mkdir()
        (home / "name").write_text(f"{ZONES[zone]}\n")
        (home / "max_energy_range_uj").write_text(f"{most}\n")
        energy = 900
    (home / "energy_uj").write_text(f"{energy}\n")


@pytest.fixture
def powercap(tmp_path):
    for zone in ZONES:
        counter(tmp_path, zone)
    (tmp_path / "intel-rapl").mkdir()  # the driver's own
    return tmp_path


def test_packages_and_memory_count_once_and_counters_begin_anew(powercap):
    def work():
        for zone, energy in zip(ZONES, (100, 999, 930, 999, 901), strict=True):
            counter(powercap, zone, energy)

    meter = rapl(powercap)
    assert meter.joules(work) == pytest.approx((1000 + 100 - 900 + 30 + 1) * 1e-6)
    assert meter.covers == "the processors and memory"


def test_why_rapl_shows_nothing_is_one_sentence(powercap, tmp_path, monkeypatch):
    with pytest.raises(BackendError, match=r"no energy counters \(RAPL\) in .*; virtual machines"):
        rapl(tmp_path / "nowhere")
    broken = powercap / "intel-rapl:2" / "energy_uj"
    broken.write_text("?")
    with pytest.raises(BackendError, match="should hold a number of microjoules, and not '\\?'"):
        rapl(powercap)
    broken.unlink()
    with pytest.raises(BackendError, match="energy_uj cannot be read .No such file"):
        rapl(powercap)

    def refused(file):
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(BackendError, match="read by root alone: allow it with 'sudo chmod a.r .*"):
        rapl(powercap)


class NVMLError(Exception):
    pass


@pytest.fixture
def library(monkeypatch):
    """NVML of one GPU: 30 mJ more at each reading, and 50 W."""

    def handle(uuid):
        if uuid != "GPU-1":
            raise NVMLError("Not Found")
        return uuid

    millijoules = count(1000, 30)
    fake = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(millijoules),
        nvmlDeviceGetPowerUsage=lambda handle: 50_000,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def unsupported(handle):
    raise NVMLError("Not Supported")


def test_a_gpu_has_a_counter_or_else_its_power_is_read_all_the_time(library, monkeypatch):
    meter = nvml("GPU-1")
    assert isinstance(meter, Counters)
    assert meter.joules(lambda: None) == pytest.approx(0.03)
    library.nvmlDeviceGetTotalEnergyConsumption = unsupported
    meter = nvml("GPU-1")
    assert isinstance(meter, Sampled)
    clock = count()
    monkeypatch.setattr(meters, "perf_counter", lambda: float(next(clock)))
    seconds = meter.joules(lambda: None) / 50
    assert seconds == next(clock) - 1


def test_power_that_changes_is_added_up(monkeypatch):
    rising, readings, clock = count(10.0, 10.0), [], count(0.0, 2.0)

    def watts():
        readings.append(next(rising))
        return readings[-1]

    monkeypatch.setattr(meters, "perf_counter", lambda: next(clock))
    found = Sampled("", "", watts).joules(lambda: None)
    assert found == sum(a + b for a, b in pairwise(readings)) > 0  # a reading every 2 seconds


def test_why_nvml_shows_nothing_is_one_sentence(library, monkeypatch):
    with pytest.raises(BackendError, match=r"NVML does not answer for GPU-2 \(Not Found\)"):
        nvml("GPU-2")
    library.nvmlDeviceGetTotalEnergyConsumption = unsupported
    library.nvmlDeviceGetPowerUsage = unsupported
    with pytest.raises(BackendError, match=r"NVML does not answer for GPU-1 \(Not Supported\)"):
        nvml("GPU-1")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(BackendError, match="without 'pip install nvidia-ml-py'"):
        nvml("GPU-1")


def test_the_meter_of_a_gpu_is_that_of_the_device_that_runs(library, monkeypatch):
    gpu = SimpleNamespace(name="GPU 9", uuid="1")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: gpu.name)
    name, meter, why = measuring._meter(torch.device("cuda"))
    assert (name, meter.how, why) == ("GPU 9", "NVML's energy counter", "")
    gpu.uuid = "2"
    name, meter, why = measuring._meter(torch.device("cuda"))
    assert (name, meter) == ("GPU 9", None) and "NVML does not answer for GPU-2" in why


# What is priced


@pytest.fixture(scope="module")
def ran():
    """A bundled model on the chip, its images, and its run."""
    images, _ = load_data("digits").test.tensors(4)
    mapped = map_model(load_checkpoint(DIGITS).model, calibration=images)
    return mapped, images, simulate(mapped, images)


def without_power(monkeypatch, reason="there is no meter"):
    def refused():
        raise BackendError(reason)

    monkeypatch.setattr(measuring, "rapl", refused)


@pytest.fixture
def machine(monkeypatch):
    """A processor that draws 8 W while it works and 3 W while it sleeps; runs take 1 ms."""
    spent = SimpleNamespace(seconds=0.0, joules=0.0)

    def pass_by(seconds, watts=8.0):
        spent.seconds += seconds
        spent.joules += seconds * watts

    def clock():
        pass_by(0.001)
        return spent.seconds

    meter = Counters("its counter", "the processor", [(lambda: spent.joules, None)])
    monkeypatch.setattr(measuring, "perf_counter", clock)
    monkeypatch.setattr(measuring, "sleep", partial(pass_by, watts=3.0))
    monkeypatch.setattr(measuring, "rapl", lambda: meter)
    monkeypatch.setattr(measuring, "_cpu", lambda: "Processor 1")


def test_measured_times_and_watts_are_the_hosts(ran, machine):
    mapped, images, run = ran
    host = measure_host(mapped, images, device="cpu", seconds=0.02)
    names = {segment.name for segment in mapped.partition.on_host}
    assert host.measured.keys() == {ALONE, *names} and len(names) > 1
    for took in host.measured.values():
        assert took.us.value == pytest.approx(1000.0)
        assert took.us.source.startswith("measured on Processor 1, 20")
        assert took.w.value == pytest.approx(8.0, rel=0.1)
    assert host.idle_w.value == pytest.approx(3.0, rel=0.1)
    assert host.name == "Processor 1"
    assert host.power_w.value == max(took.w for took in host.measured.values()).value
    cost = estimate(mapped, run, host)
    energy, latency = cost.energy_uj, cost.price.latency
    assert latency.host_us.value == pytest.approx(1000.0 * len(names))
    assert energy.host.value == pytest.approx(8000.0 * len(names), rel=0.1)
    assert energy.launching.value == 0
    assert energy.waiting.value == pytest.approx(host.idle_w.value * latency.waiting_us.value)
    assert cost.host_only.latency_us.value == pytest.approx(1000.0)
    assert cost.host_only.energy_uj.value == pytest.approx(8000.0, rel=0.1)
    quoted = {figure for sentence in cost.assumptions for figure in sentence.figures}
    assert quoted >= {took.w for took in host.measured.values()} | {host.idle_w}
    assert cost.cited <= quoted


def test_power_that_does_not_show_stays_the_profiles(ran, monkeypatch):
    mapped, images, run = ran
    without_power(monkeypatch)
    profile = load_host("jetson-orin-nano")
    host = measure_host(mapped, images, profile, device="cpu", seconds=0.001)
    cost = estimate(mapped, run, host)
    times = [took.us.value for name, took in host.measured.items() if name != ALONE]
    assert cost.energy_uj.host.value == pytest.approx(profile.launching_w.value * sum(times))
    assert (cost.energy_uj.launching.value, host.idle_w.value) == (0, profile.idle_w.value)
    texts = [sentence.text for sentence in cost.assumptions]
    assert "Its power is that of jetson-orin-nano, since there is no meter." in texts
    assert any(text.startswith("What the host draws while it works was not") for text in texts)
    unknown = measure_host(mapped, images, "a100", device="cpu", seconds=0.001)
    assert estimate(mapped, run, unknown).host_only.latency_us is not None


def test_without_a_chip_the_board_is_the_host_alone(ran, machine):
    _, images, _ = ran
    mapped = map_model(load_checkpoint(DIGITS).model, calibration=images, partition="none")
    host = measure_host(mapped, images, device="cpu", seconds=0.002)
    cost = estimate(mapped, simulate(mapped, images), host)
    assert cost.energy_uj.total.value == cost.host_only.energy_uj.value > 0
    assert cost.latency_us.value == cost.host_only.latency_us.value


def test_a_counter_that_stands_still_is_told(ran, machine, monkeypatch):
    meter = Counters("its counter", "the processor", [(lambda: 1.0, None)])
    monkeypatch.setattr(measuring, "rapl", lambda: meter)
    with pytest.raises(BackendError, match="its counter of the processor stood still: measure for"):
        measure_host(*ran[:2], device="cpu", seconds=0.02)


def test_a_host_that_draws_no_more_while_it_works_says_so(ran, machine, monkeypatch):
    monkeypatch.setattr(
        measuring, "sleep", lambda seconds: [measuring.perf_counter() for _ in "ab"]
    )
    meter = Counters("its counter", "the processor", [(partial(next, count(1.0, 9.0)), None)])
    monkeypatch.setattr(measuring, "rapl", lambda: meter)
    host = measure_host(*ran[:2], device="cpu", seconds=0.02)
    assert host.idle_w.high <= host.power_w.value
    assert "It drew as much while it waited as while it worked" in host.caveats[1]


def test_what_was_measured_is_good_for_its_mapping_alone(ran):
    mapped, images, run = ran
    took = {ALONE: Measured(us=Figure.exact(1.0, "µs"))}
    other = msgspec.structs.replace(load_host(), measured=took)
    with pytest.raises(BadInput, match="while it ran another mapping, without .*: measure it"):
        estimate(mapped, run, other)
    for device in ("tpu", "meta"):
        with pytest.raises(BadInput, match="name 'cpu' or 'cuda'"):
            measure_host(mapped, images, device=device)


def test_both_commands_measure_where_they_are_told_to(tmp_path, monkeypatch, capsys):
    def call(module, *arguments):
        quick = partial(measure_host, seconds=0.001)
        monkeypatch.setattr(f"has8.cli.jobs.{module}.measure_host", quick)
        monkeypatch.setattr(sys, "argv", ["has8", module, *map(str, arguments), "--quiet"])
        with pytest.raises(SystemExit) as done:
            main()
        said = capsys.readouterr()
        assert done.value.code == 0, said.err
        return json.loads(said.out)

    options = ("--samples", 2, "--measure-host", "--json")
    report = call("map", DIGITS, "--out", tmp_path, "--verify", "none", *options)
    entries = [f for one in report["assumptions"] for f in one["figures"]]
    measured = {f["path"]: f["value"] for f in entries if f["path"].startswith("measured.")}
    assert report["host_only"]["latency_us"] == measured[f"measured.{ALONE}.us"]
    first = call("compare", tmp_path / "digits.h8", *options)["alternatives"][0]
    assert first["host"] == report["host"] != "jetson-orin-nano"
