"""The benchmarks: nets that are compared are the same, budgets never mix, counts are right."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from builders import IMAGE, everything, law
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the installed packages

from benchmarks import (  # noqa: E402
    loops,
    machine,
    paper,
    paper_tables,
    plain,
    runs,
    simulation,
    stopwatch,
    timing,
    training,
)
from benchmarks.layers import count_macs, recorded, replay  # noqa: E402
from benchmarks.partition import run as search_partition  # noqa: E402
from has8 import create_model  # noqa: E402
from has8.blocks import Coding, HybridBlock, SpikingLayer  # noqa: E402
from has8.errors import BadInput, UnknownName  # noqa: E402
from has8.models.registry import MODELS, variant  # noqa: E402
from has8.neurons import Leaky  # noqa: E402
from has8.training.checkpoint import NoInitialisation  # noqa: E402
from mapping import map_model  # noqa: E402

JELLY = pytest.mark.skipif(
    plain.missing("spikingjelly") is not None, reason=str(plain.missing("spikingjelly"))
)
LIBRARIES = ["snntorch", pytest.param("spikingjelly", marks=JELLY)]
SMALL = training.Settings(batch_size=4, rounds=1, threads=1)
SMALL_NETS = {
    "has8_resnet": {"base": 4, "depth": 2, "stem": "cifar"},
    "has8_vgg": {"base": 2, "depth": 1, "head": [6]},
}


def run(module, *arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160", "PYTHONPATH": str(ROOT)},
        timeout=200,
        check=False,
    )


def trained(name, **options):
    """A small net in float64 whose neurons fire."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, **SMALL_NETS[name], **options).double().train()
    for _ in range(30):
        model(torch.rand(8, 3, 16, 16, dtype=torch.float64))
    return model


# The same nets


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", SMALL_NETS)
def test_rewritten_nets_give_the_same_logits(name, library):
    model = trained(name).eval()
    nets = {"has8": model.float(), library: plain.rewritten(model, library)}
    alike = training.check(nets, torch.rand(8, 3, 16, 16))
    assert alike[library]["largest_difference"] < 1e-9
    images = torch.rand(8, 3, 16, 16)
    assert model(images).std() > 0.01
    with torch.inference_mode():  # no state is left over
        assert torch.equal(nets[library](images), nets[library](images))
    assert not any(isinstance(m, plain.HybridBlock) for m in nets[library].modules())


def test_the_loop_over_snntorch_has_the_same_gradient():
    model = trained("has8_vgg", slope="tanh").eval()
    loop = training._in_float64(plain.rewritten(model, "snntorch"))
    images = torch.rand(8, 3, 16, 16, dtype=torch.float64)
    for net in (model, loop):
        net(images).square().sum().backward()
    for one, other in zip(model.parameters(), loop.parameters(), strict=True):
        assert one.grad.abs().max() > 0
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-5)  # its spikes are float32


def test_hybrids_that_no_library_has_are_held_to_their_step_form():
    model = training.build("hnn_mlp", "has8", SMALL).double()
    assert plain.forms(model) == ("steps",)
    stepped, images = plain.rewritten(model, "steps"), SMALL.batch()[0].double()
    for net in (model, stepped):
        net(images).square().sum().backward()
    assert model(images).std() > 0 and torch.equal(model(images), stepped(images))
    for one, other in zip(model.parameters(), stepped.parameters(), strict=True):
        assert one.grad.abs().max() > 0 and torch.allclose(one.grad, other.grad)


def test_a_net_that_computes_something_else_is_refused():
    model = trained("has8_vgg").float().eval()
    other = plain.rewritten(model, "snntorch")
    for module in other.modules():
        if isinstance(module, plain.Scale):
            module.factor = 0.6
    with pytest.raises(BadInput, match="the nets are not the same"):
        training.check({"has8": model, "snntorch": other}, torch.rand(4, 3, 16, 16))


def test_nets_without_a_plain_form_are_refused():
    with pytest.raises(BadInput, match="no hybrid blocks"):
        plain.rewritten(nn.Linear(2, 2), "snntorch")
    vgg = create_model("has8_vgg", num_classes=3, **SMALL_NETS["has8_vgg"])
    vgg.head.snn = nn.Linear(6, 3)
    with pytest.raises(BadInput, match="no plain form of a Linear"):
        plain.rewritten(vgg, "snntorch")


@JELLY
def test_spikingjelly_has_no_if_neuron_of_this_kind():
    vgg = create_model("has8_vgg", num_classes=3, neuron="if", **SMALL_NETS["has8_vgg"])
    with pytest.raises(BadInput, match="choose neuron='lif'"):
        plain.rewritten(vgg, "spikingjelly")


# Counts and replays


@given(
    channels=st.integers(1, 4),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    side=st.integers(5, 12),
    classes=st.integers(2, 5),
)
@law(10)
def test_macs_are_those_of_a_brute_force_count(channels, kernel, stride, side, classes):
    conv = nn.Conv2d(2, channels, kernel, stride, kernel // 2, bias=False)
    pool, flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    model = nn.Sequential(conv, pool, flatten, nn.Linear(channels, classes))
    out = len(range(0, side + 2 * (kernel // 2) - kernel + 1, stride))
    expected = out * out * channels * 2 * kernel * kernel + channels * classes
    assert asdict(count_macs(model, side, 2)) == {"ann": expected, "snn_step": 0, "steps": 1}


def test_macs_and_parameters_of_the_published_models():
    entries = {entry["model"]: entry for entry in paper_tables.costs()}
    assert list(entries) == list(paper.TABLE3)
    for name, entry in entries.items():
        assert entry["within"], name
        assert abs(entry["difference"]) <= 0.015
    vgg, resnet = entries["has8_vgg_b16"], entries["has8_resnet_b32"]
    assert vgg["parameters"] == {10: 9_693_556, 100: 9_785_896, 1000: 10_709_296}
    assert resnet["parameters"][10] == 5_632_522
    assert resnet["macs"][224] == {
        "ann": 577_480_704,
        "snn_step": 577_224_704,
        "one_step": 1_154_705_408,
        "steps": 8,
        "total": 5_195_278_336,
    }
    assert entries["sew_resnet18"]["macs"][224]["steps"] == 10
    assert entries["resnet50"]["macs"][224]["total"] == entries["resnet50"]["macs"][224]["ann"]


def test_layers_that_cannot_be_counted_are_refused():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return x

    with pytest.raises(BadInput, match="expected 1 and one other number"):
        count_macs(Unused(), 4)


def test_a_replay_makes_the_same_calls_and_touches_no_weights():
    model = trained("has8_resnet").float()
    before = [parameter.clone() for parameter in model.parameters()]
    with recorded(model) as calls:
        model(torch.rand(4, 3, 16, 16))
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(calls) == len(layers)
    assert {call.layer for call in calls} == set(layers)
    again = replay(calls)
    with recorded(model) as second:
        again()
    assert second == calls
    assert all(map(torch.equal, before, model.parameters()))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_every_piece_of_work_runs_once_a_round():
    order = []
    work = {name: partial(order.append, name) for name in "ab"}
    times = stopwatch.in_turn(work, 3, "cpu")
    assert order == list("ab") * 4  # one round more, to warm up
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3}
    assert training._ratio([2.0, 9.0, 6.0], [1.0, 3.0, 2.0]) == 3


# Settings and budgets


def test_the_tables_hold_the_papers_settings_in_its_order():
    assert len(paper.TABLE1) == 4 + 12 + 12
    assert len({setting.name for setting in paper.TABLE1}) == 28
    best = paper.TABLE1[-1]
    assert best.name == "resnet_b32-rescale-bitplane-fourier_released"
    assert (best.paper, best.options["mode"]) == (79.20, "paper")
    gains = [after.paper - before.paper for before, after in zip(
        paper.TABLE1[16:22], paper.TABLE1[22:], strict=True)]  # fmt: skip
    assert max(gains) == pytest.approx(54.63)  # the gain that the paper's text names
    assert [s.options["slope"] for s in paper.ABLATION] == [
        "fourier_released", "fourier", "constant_half", "straight_through"]  # fmt: skip
    assert len(paper.TABLE2) == 40
    on_cifar = {s.name: s.paper for s in paper.TABLE2 if s.data == "cifar10"}
    for setting in paper.TABLE1:  # where both tables have a number it is the same
        assert on_cifar.get(setting.name, setting.paper) == setting.paper


@pytest.mark.parametrize("setting", {s.name: s for t in paper.TABLES.values() for s in t}.values())
def test_every_setting_can_be_built(setting):
    before = torch.get_rng_state()
    with NoInitialisation():
        create_model(setting.model, num_classes=2, **setting.options)
    assert torch.equal(torch.get_rng_state(), before)  # nothing was drawn


def test_choosing_settings():
    assert len(paper.choose(paper.TABLE1, ("resnet_b32", "baselines"))) == 16
    assert [s.model for s in paper.choose(paper.TABLE1, (), ("resnet18",))] == ["resnet18"]
    with pytest.raises(UnknownName, match="did you mean 'resnet18'"):
        paper.choose(paper.TABLE1, (), ("resnet8",))
    with pytest.raises(UnknownName, match="unknown group of models"):
        paper.choose(paper.TABLE1, ("resnet_b32x",))


SETTING = paper.TABLE1[-1]
BUDGET = runs.Budget("paper", 4, 10_000, 16, 3407, "32")


def result(setting=SETTING, budget=BUDGET, accuracy=0.5, **changes):
    facts = {"seconds": 1.0, "hardware": "x", "threads": 1, "torch": "2", "commit": None, **changes}
    return runs.Result("table1", setting.name, setting.model, dict(setting.options), setting.data,
                       **asdict(budget), accuracy=accuracy, **facts)  # fmt: skip


def stored(folder, *results):
    for number, one in enumerate(results):
        (folder / f"{number}.json").write_text(json.dumps(asdict(one)))
    return runs.read_results(folder)


@given(
    change=st.sampled_from(
        [
            {"epochs": 5},
            {"images": 9_999},
            {"batch_size": 32},
            {"seed": 0},
            {"precision": "bf16"},
            {"recipe": "modern"},
        ]
    )
)
def test_budgets_that_differ_anywhere_are_other_budgets(change):
    other = replace(BUDGET, **change)
    assert other != BUDGET
    assert str(other) != str(BUDGET)


def test_a_result_belongs_to_its_setting_on_its_data_only(tmp_path):
    results = stored(tmp_path, result())
    assert runs.find(results, SETTING) == [result()]
    assert runs.find(results, paper.ABLATION[0]) == [result()]  # the same net, another table
    assert runs.find(results, replace(SETTING, data="cifar100")) == []
    assert all(runs.find(results, other) == [] for other in paper.TABLE1[:-1])


def test_a_broken_result_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"table": "table1"}')
    with pytest.raises(BadInput, match=r"a\.json is no result of a run"):
        runs.read_results(tmp_path)
    (tmp_path / "a.json").unlink()
    percent = {**asdict(result()), "accuracy": 79.2}
    (tmp_path / "b.json").write_text(json.dumps(percent))
    with pytest.raises(BadInput, match="accuracy must lie in"):
        runs.read_results(tmp_path)
    (tmp_path / "b.json").unlink()
    stored(tmp_path, result())
    assert runs.read_results(tmp_path) == [result()]
    assert runs.read_results(tmp_path / "nowhere") == []


def test_only_the_same_budget_is_not_run_again(tmp_path):
    plan = runs.Plan("table1", tmp_path, tmp_path / "work", epochs=2, subset=64)
    digits = [replace(SETTING, data="digits", paper=None)]
    (missing,) = runs.missing_runs(digits, plan)
    assert missing.budget == runs.Budget("paper", 2, 64, 16, 3407, "32")
    assert (missing.config.lr, missing.config.optimizer) == (1e-3, "adam")
    stored(tmp_path, result(digits[0], missing.budget))
    assert list(runs.missing_runs(digits, plan)) == []
    assert len(list(runs.missing_runs(digits, replace(plan, epochs=3)))) == 1
    assert len(list(runs.missing_runs(digits, replace(plan, precision="bf16")))) == 1
    (whole,) = runs.missing_runs(digits, replace(plan, subset=5000))
    assert (whole.budget.images, whole.config.subset) == (1437, None)
    assert len({missing.name, whole.name}) == 2


def test_rows_show_paper_ours_difference_and_budget(tmp_path):
    longer = result(budget=replace(BUDGET, epochs=100, images=50_000), accuracy=0.8)
    entries = paper_tables.accuracies(
        [SETTING, paper.TABLE1[0]], stored(tmp_path, result(), longer)
    )
    first, second = entries[0]["runs"]
    assert (first["accuracy"], first["epochs"]) == (80.0, 100)
    assert first["difference"] == pytest.approx(0.8)
    assert second["difference"] == pytest.approx(-29.2)
    assert second["budget"] == "4 epochs x 10,000 images, batch 16, paper, fp32, seed 3407"
    assert entries[1]["runs"] == []
    cells = [list(column.cells) for column in paper_tables.table1("", entries).columns]
    assert cells[5] == ["79.20", "79.20", "70.69"]
    assert cells[6] == ["80.00", "50.00", "-"]
    assert cells[7] == ["+0.80", "-29.20", "-"]
    assert cells[8][2] == "-"


def test_the_second_table_gives_every_budget_a_row_of_its_own(tmp_path):
    pair = [s for s in paper.TABLE2 if s.name == SETTING.name]
    short = result(pair[1], replace(BUDGET, epochs=1), 0.1)
    table = paper_tables.table2(paper_tables.accuracies(pair, stored(tmp_path, result(), short)))
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows[0][1:4] == ("paper", "79.20", "46.99")
    assert rows[1][2:] == ("50.00 (-29.20)", "-", "-", "-", "-")
    assert rows[2][2:] == ("-", "10.00 (-36.99)", "-", "-", "-")


def test_the_commit_says_where_files_differ(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    assert machine.commit(tmp_path) is None
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    clean = machine.commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "r.json").write_text("{}")
    assert machine.commit(tmp_path) == clean
    (tmp_path / "a").write_text("2")
    assert machine.commit(tmp_path) == f"{clean}-dirty"


# Simulation


def test_the_sums_that_are_timed_are_all_of_the_chips_and_counted_right():
    """4 images, 8 steps, 3x3 on 6x6 of which borders see less, 1 to 2 channels, then dense."""
    conv = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.ReLU())
    layer = SpikingLayer(nn.Conv2d(1, 2, 3, padding=1, bias=False), Leaky())
    model = nn.Sequential(HybridBlock(conv, layer, Coding()), nn.Flatten(), nn.Linear(72, 3))
    images = torch.rand(4, 1, 6, 6)
    model(images)
    mapped = map_model(model.eval(), calibration=images)
    sums, operations = simulation.sums_of(mapped, images)
    assert operations == 2 * 4 * 8 * 2 * 16 * 16  # (6 + 5 + 5) taps inside along each axis
    sums()


def test_every_stage_that_a_profile_names_takes_time():
    """Stages are functions by file and name, which move; one that is not there takes none."""
    mapped = map_model(everything(), input_shape=IMAGE)
    shares = simulation.profile(mapped, torch.rand(12, *IMAGE), 4)
    assert shares.keys() == {*simulation.STAGES.values(), "the rest"}
    assert all(0 < share < 1 for share in shares.values())
    assert sum(shares.values()) == pytest.approx(1)
    sources = [*ROOT.glob("hwsim/**/*.py"), *ROOT.glob("mapping/**/*.py")]
    for file, function in simulation.STAGES:
        texts = [path.read_text() for path in sources if path.name == file]
        assert any(f"def {function}(" in text for text in texts), (file, function)


@pytest.mark.parametrize("arithmetic", ["int8", "float32"])
def test_the_machines_own_rate_is_measured(arithmetic, monkeypatch):
    monkeypatch.setattr(simulation, "MATRIX", 64)
    assert simulation.matrix_rate(arithmetic) > 0


# The commands


@pytest.fixture
def tiny(monkeypatch):
    """The name of a model for CIFAR-10 that takes no time."""
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))
    variant("tiny", MODELS.get("has8_resnet"), **SMALL_NETS["has8_resnet"])
    return "tiny"


def test_simulation(tiny, monkeypatch):
    cifar10 = SimpleNamespace(tensors=lambda count: (torch.rand(count, 3, 32, 32), None))
    monkeypatch.setattr(simulation, "load_data", lambda _: SimpleNamespace(test=cifar10))
    monkeypatch.setattr(simulation, "MATRIX", 64)
    small = ["--samples", 4, "--batch-size", 2, "--rounds", 1, "--reference-samples", 1]
    arguments = ["--models", tiny, *small, "--threads", 1, "--lava-samples", 0]
    arguments += ["--no-memory", "--json"]
    done = CliRunner().invoke(simulation.main, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])["models"][tiny]
    assert all(found["samples_per_s"][key] > 0 for key in ("fast", "float", "reference"))
    assert found["samples_per_s"]["lava"] is found["fast_vs_lava"] is found["equal"] is None
    assert found["fraction_of_gemm_peak"] > 0
    assert "fast over float" in done.stdout


def test_training(tiny):
    arguments = ["--models", tiny, "--rounds", 1, "--batch-size", 2, "--threads", 1]
    arguments += ["--no-memory", "--json"]
    done = CliRunner().invoke(training.main, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout.splitlines()[-1])
    found = report["models"][tiny]
    for key in ("step_ratio_vs_snntorch", "inference_ratio_vs_snntorch", "step_over_convolutions"):
        assert found[key] > 0
    with_jelly = plain.missing("spikingjelly") is None
    for key in ("step_ratio_vs_spikingjelly", "inference_ratio_vs_spikingjelly"):
        assert (found[key] is not None) == with_jelly
    assert report["skipped"] == [] if with_jelly else len(report["skipped"]) == 1
    assert found["step_ms"].keys() == {"has8", "snntorch", "spikingjelly", "convolutions"}
    assert report["settings"]["batch_size"] == 2
    assert tiny in done.stdout


def test_peak_memory_is_that_of_a_training_step_in_a_process_of_its_own():
    if stopwatch.resident("VmHWM") is None:
        pytest.skip("this system does not tell peak memory")
    found = training.peak_mib("has8_resnet_b32", "snntorch", SMALL)
    assert 50 < found < 1000


def test_training_refuses_a_model_that_it_cannot_compare():
    for model, reason in {"has8_resnet_b33": "did you mean", "resnet18": "no option"}.items():
        done = CliRunner().invoke(training.main, ["--models", model, "--threads", "1"])
        assert done.exit_code == 1
        assert reason in done.output


def test_the_tables_refuse_an_unknown_setting_as_a_process(tmp_path):
    done = run("paper_tables", "--run", "table1", "--only", "resnet8", cwd=tmp_path)
    assert done.returncode == 1
    assert "did you mean 'resnet18'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_goes_on_and_is_not_run_twice(tmp_path):
    digits = replace(paper.choose(paper.TABLE1, (), ("resnet18",))[0], data="digits", paper=None)
    plan = runs.Plan("table1", tmp_path / "results", tmp_path / "work", epochs=2, subset=32)
    (missing,) = runs.missing_runs([digits], plan)

    def stop(now):
        if now.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.perform(missing, plan, stop)
    assert runs.read_results(plan.results) == []  # a run that is only partly there is no result
    arguments = ["--run", "table1", "--only", "resnet18", "--data", "digits", "--epochs", 2]
    arguments += ["--subset", 32, "--threads", 1, "--results", plan.results, "--work", plan.work]
    done = CliRunner().invoke(paper_tables.main, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    assert "epoch 2/2" in done.stderr
    assert "epoch 1/2" not in done.stderr  # that one was done
    (found,) = runs.read_results(plan.results)
    assert (found.data, found.budget) == ("digits", missing.budget)
    assert list(runs.missing_runs([digits], plan)) == []
    report = json.loads(done.stdout.splitlines()[-1])
    assert all(not entry["runs"] for entry in report["table1"])  # digits are not CIFAR-10
    assert len(report["table3"]) == 8


def test_what_a_loop_costs_is_a_table_and_one_line_of_json(monkeypatch):
    for name, few in {"NEURONS": 6, "STEPS": 4, "SAMPLES": 3, "RUNS": 1}.items():
        monkeypatch.setattr(loops, name, few)
    done = CliRunner().invoke(loops.main, ["--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.output.splitlines()[-1])
    assert [row["layer"] for row in result["rows"]] == ["with a loop", "without"]
    assert all(row["equal"] and row["fast_s"] > 0 for row in result["rows"])


def test_the_partition_benchmark_tries_every_partition():
    for kind in ("chains", "blocks"):
        found = search_partition(kind, 6, limited=True)
        assert found["equal_to_brute_force"] is True and found["gap"] == 0


def test_the_searches_on_record_are_exact_and_in_the_docs():
    rows = json.loads((ROOT / "benchmarks" / "results" / "partition.json").read_text())
    text = (ROOT / "docs" / "which_part.md").read_text(encoding="utf-8")
    for row in rows:
        assert row["gap"] == 0 and row["seconds"] < 10
        assert row["equal_to_brute_force"] is (True if row["layers"] <= 12 else None)
    shown = [row for row in rows if "front" in row or row["layers"] in (12, 200)]
    found = re.findall(r"\| (\d+) \| ([\d,]+) \| .*\| ([\d.]+) s \| 0 \|", text)
    wanted = [(str(r["layers"]), f"{r['groups']:,}", f"{r['seconds']:.2f}") for r in shown]
    assert found == wanted


def test_steps_are_timed_by_both_models_beside_what_was_measured(monkeypatch):
    """Of a short run; each network whose steps were measured has a reason for what is left."""
    case = replace(timing.CASES["N-TIDIGITS"], steps=9)
    monkeypatch.setattr(timing, "CASES", {case.name: case})
    (row,) = timing.measured()
    total = next(m for m in case.measured if m.quantity == "time").value
    assert (row.name, row.steps, row.there_us) == (case.name, 9, total / 9)
    assert 1 + 4.13 < row.mean_us < row.events_us * 1.05 < 20
    (line,) = list(timing.table(iter([row])))[2:]
    assert line.startswith(f"| N-TIDIGITS | board | {row.there_us:.4g} | {row.mean_us:.4g} | ")
    monkeypatch.undo()
    times = {c.name for c in timing.CASES.values() for m in c.measured if m.quantity == "time"}
    assert set(timing.WHY) == times - {"keyword spotting"}  # ten exchanges a sample
