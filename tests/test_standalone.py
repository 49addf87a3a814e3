"""``python -m hwsim.backends.lava``: a saved mapping alone, spikes in and out, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from builders import with_constants

import mapping
from has8 import calibrate, create_model
from hwsim.backends.lava import standalone
from hwsim.backends.lava.backend import Lava
from hwsim.backends.lava.standalone import main, read_mapping
from hwsim.backends.reference import Reference
from mapping.chip.archive import read, write
from mapping.chip.neurons import constants
from mapping.chip.segment import ChipSegment, Population
from mapping.cores.allocate import allocate
from mapping.cores.placement import place

MISSING = Lava().unavailable()
needs_lava = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
PATIENCE_S = 200.0
"""Seconds that a process may take on a machine that is busy with something else."""
needs_groups = pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")


def varied(chip: ChipSegment) -> ChipSegment:
    """With a threshold for each channel, all so low that neurons fire though nobody trained."""

    def low(layer: Population) -> Population:
        threshold = layer.neuron.threshold
        each = np.arange(threshold.size).reshape(threshold.shape)
        return with_constants(layer, threshold=threshold // 20 + each)

    return replace(chip, populations=tuple(map(low, chip.populations)))


def placed(mapped: mapping.Mapped, chips: tuple[ChipSegment, ...]) -> mapping.Mapped:
    """The mapping with other integers, on cores of their own."""
    placement = place(allocate(chips, mapped.target), chips, mapped.target)
    return replace(mapped, chip_segments=chips, placement=placement)


@pytest.fixture(scope="module")
def mapped(digits):
    torch.manual_seed(0)
    model = create_model("has8_vgg", num_classes=10, in_channels=1, base=4, depth=1, head=(12,))
    found = mapping.map_model(calibrate(model, digits), calibration=digits)
    return placed(found, tuple(map(varied, found.chip_segments)))


@pytest.fixture(scope="module")
def artefact(mapped, tmp_path_factory) -> Path:
    return mapping.save(mapped, tmp_path_factory.mktemp("artefact") / "net.h8")


@pytest.fixture(scope="module")
def spikes(mapped) -> dict[str, np.ndarray]:
    """Of every port, two samples."""
    rng = np.random.default_rng(0)
    return {
        f"{chip.name}/inputs/{port.name}": rng.random((chip.steps, 2, *port.shape)) < 0.5
        for chip in mapped.chip_segments
        for port in chip.inputs
    }


@pytest.fixture
def fails(artefact, spikes, tmp_path, capsys) -> Callable[..., str]:
    """Runs the command on changed spikes or another mapping; gives its one sentence."""

    def run(changed: Mapping[str, Any] = {}, name: Path = artefact, out: str = "out.npz") -> str:
        content = {**spikes, **changed}
        np.savez(tmp_path / "in.npz", **{k: v for k, v in content.items() if v is not None})
        assert main([str(name), str(tmp_path / "in.npz"), str(tmp_path / out)]) == 1
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and said.err.count("\n") == 1
        assert not list(tmp_path.glob("*out*"))
        return said.err.replace(str(tmp_path), "TMP")

    return run


def test_reads_what_the_artefact_holds(mapped, artefact):
    """Without any of the libraries that wrote it."""
    segments, registers = read_mapping(artefact)
    assert vars(registers).keys() == msgspec.structs.asdict(mapped.target.registers).keys()
    assert registers.keep_top == mapped.target.registers.keep_top
    assert [segment.name for segment in segments] == [chip.name for chip in mapped.chip_segments]
    for segment, chip in zip(segments, mapped.chip_segments, strict=True):
        assert segment.steps == chip.steps
        assert [(p.name, tuple(p.shape)) for p in segment.inputs] == [
            (p.name, p.shape) for p in chip.inputs
        ]
        for mine, theirs in zip(segment.populations, chip.populations, strict=True):
            assert (mine.name, mine.neuron.model) == (theirs.name, theirs.neuron.model)
            constants_there = constants(theirs.neuron)
            assert constants(mine.neuron).keys() == constants_there.keys()
            for key, values in constants(mine.neuron).items():
                np.testing.assert_array_equal(values, constants_there[key])
            for one, two in zip(mine.synapses, theirs.synapses, strict=True):
                assert one.weight.dtype == np.int64
                np.testing.assert_array_equal(one.weight, two.weight)
                assert (one.source, one.wiring, one.weight_exp) == (
                    two.source,
                    two.wiring,
                    two.weight_exp,
                )


@needs_lava
def test_equals_the_reference_without_our_libraries(mapped, artefact, spikes, tmp_path):
    """Every spike; a segment that lacks inputs is left out."""
    chip, left_out = mapped.chip_segments[-1], mapped.chip_segments[0]
    given = {key: array for key, array in spikes.items() if key.startswith(f"{chip.name}/")}
    np.savez(tmp_path / "in.npz", **given, other=np.arange(3))
    code = (
        "import runpy, sys\n"
        "for name in ('torch', 'msgspec', 'click', 'yaml', 'networkx'):\n"
        "    sys.modules[name] = None\n"
        "runpy.run_module('hwsim.backends.lava', run_name='__main__', alter_sys=True)"
    )
    files = [str(artefact), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *files], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (0, len(mapped.chip_segments) - 1), (
        done.stderr
    )
    assert f"{left_out.name}: skipped" in done.stderr
    assert done.stdout.startswith(f"{chip.name}: 2 samples, ")
    inputs = {port.name: given[f"{chip.name}/inputs/{port.name}"] for port in chip.inputs}
    inputs = {name: torch.from_numpy(array) for name, array in inputs.items()}
    want = Reference().compile(chip, mapped.target.registers)(inputs).spikes
    with np.load(tmp_path / "out.npz") as got:
        assert sorted(got.files) == sorted(f"{chip.name}/spikes/{name}" for name in want)
        for name, fired in want.items():
            found = got[f"{chip.name}/spikes/{name}"]
            assert found.dtype == bool and fired.any() and not fired.all()
            np.testing.assert_array_equal(found, fired.numpy())


# ---------------------------------------------------------------------------------- bad input


def test_says_what_is_wrong_with_the_spikes(fails, mapped, spikes, tmp_path):
    chip = mapped.chip_segments[0]
    port, shape = chip.inputs[0].name, chip.inputs[0].shape
    key = f"{chip.name}/inputs/{port}"
    expected = f"expected bool[T, N, *shape] = bool[8, N, {', '.join(map(str, shape))}] with"
    assert f"{key} is int64[8, 2, 1, 8, 8], {expected}" in fails({key: spikes[key].astype(int)})
    assert f"{key} is bool[7, 2, 1, 8, 8], {expected}" in fails({key: spikes[key][1:]})
    assert f"{key} is bool[8, 0, 1, 8, 8], {expected}" in fails({key: spikes[key][:, :0]})
    nothing = dict.fromkeys(spikes)
    assert f"holds the inputs of no chip segment: expected arrays like {key!r}" in fails(nothing)
    assert "cannot write TMP/no/out.npz: name a new file in a folder" in fails(out="no/out.npz")


def test_says_what_is_wrong_with_the_mapping(fails, artefact, tmp_path):
    assert f"cannot read {artefact}x (No such file" in fails(name=Path(f"{artefact}x"))
    manifest, arrays = read(artefact)
    bad = tmp_path / "bad.h8"

    def written(manifest: bytes) -> Path:
        with bad.open("wb") as file:
            write(file, manifest, arrays)
        return bad

    start = "error: TMP/bad.h8 is no mapped model or is damaged ("
    whole = artefact.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    said = fails(name=bad)
    assert said.startswith(start) and said.endswith("): write it with has8-map\n")
    plain = json.loads(manifest)
    other = json.dumps({**plain, "version": 1}).encode()
    assert f"{start}'has8-mapped' version 1, and this" in fails(name=written(other))
    del plain["chip_segments"]
    assert f"{start}no 'chip_segments')" in fails(name=written(json.dumps(plain).encode()))


def test_refuses_what_lava_would_do_otherwise(fails, mapped, tmp_path):
    registers = msgspec.structs.replace(mapped.target.registers, synapse_shift=5)
    target = msgspec.structs.replace(mapped.target, registers=registers)
    other = mapping.save(replace(mapped, target=target), tmp_path / "other.h8")
    assert "synapse_shift = 6 and the target 5" in fails(name=other)


def test_a_failed_write_keeps_the_old_file(artefact, spikes, tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "in.npz", **spikes)
    (tmp_path / "out.npz").write_text("old")

    def full_disk(file, **arrays):
        file.write(b"new")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        standalone, "run_worker", lambda *job: ({"p": np.zeros((8, 2, 1), bool)}, {})
    )
    monkeypatch.setattr(np, "savez_compressed", full_disk)
    assert main([str(artefact), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]) == 1
    assert "cannot write" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"in.npz", "out.npz"}
    assert (tmp_path / "out.npz").read_text() == "old"


def test_bad_options_are_one_sentence(capsys):
    for options, said in (
        ([], "the following arguments are required: NAME.h8, INPUT.npz, OUTPUT.npz"),
        (["a", "b", "c", "--timeout", "inf"], "argument --timeout: invalid seconds value: 'inf'"),
        (["a", "b", "c", "--timeout", "0"], "argument --timeout: invalid seconds value: '0'"),
    ):
        with pytest.raises(SystemExit) as exit_info:
            main(options)
        assert exit_info.value.code == 1
        assert (
            capsys.readouterr().err == f"error: {said}: see python -m hwsim.backends.lava --help\n"
        )


# ------------------------------------------------------------------------- a Lava that misbehaves


@pytest.fixture
def stuck(artefact, spikes, tmp_path, monkeypatch):
    """Starts the command with a Python that passes for one with Lava, but does what it is told."""
    np.savez(tmp_path / "in.npz", **spikes)
    fake = tmp_path / "python"
    monkeypatch.setenv("HAS8_LAVA_PYTHON", str(fake))
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def start(act: str, *options: str) -> subprocess.Popen[str]:
        fake.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then echo Python; exit; fi\n{act}\n')
        fake.chmod(0o755)
        files = [str(artefact), str(tmp_path / "in.npz"), str(tmp_path / "out.npz"), *options]
        command = [sys.executable, "-m", "hwsim.backends.lava", *files]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    return start


# The worker and a child of it write their process ids and sleep.
HANG = 'echo $$ >> "$TMPDIR/pids"; sleep 600 & echo $! >> "$TMPDIR/pids"; wait'


def alive(pid: str) -> bool:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True)
    return shown.stdout.strip()[:1] not in ("", "Z")


def started(folder: Path) -> list[str]:
    """The process ids that were written so far."""
    return (folder / "pids").read_text().split() if (folder / "pids").exists() else []


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def ended(process: subprocess.Popen[str], folder: Path) -> tuple[int, str]:
    """The command's exit code and words, when nothing of it is left."""
    with process:
        _, said = process.communicate(timeout=PATIENCE_S)
    assert wait_until(lambda: not any(map(alive, started(folder))))
    left = {path.name for path in folder.iterdir()} - {"in.npz", "python", "pids"}
    assert not left
    return process.returncode, said


@needs_groups
def test_a_lava_that_hangs_is_stopped(stuck, mapped, tmp_path):
    for timeout_s in ("0.5", "2", "8", "32"):  # until it is long enough for both to have started
        (tmp_path / "pids").unlink(missing_ok=True)
        code, said = ended(stuck(HANG, "--timeout", timeout_s), tmp_path)
        what = f"Lava's run of segment {mapped.chip_segments[0].name!r}"
        assert code == 1
        assert said == (
            f"error: {what} took longer than {timeout_s} s and was stopped; run fewer samples or "
            "raise the time limit\n"
        )
        if len(started(tmp_path)) == 2:
            break
    assert len(started(tmp_path)) == 2


@needs_groups
def test_a_lava_that_dies_is_told(stuck, mapped, tmp_path):
    code, said = ended(stuck("kill -9 $$"), tmp_path)
    what = f"Lava's run of segment {mapped.chip_segments[0].name!r}"
    assert (code, said) == (1, f"error: {what} ended with code -9: it said nothing\n")


@needs_groups
def test_an_interrupt_stops_lava(stuck, tmp_path):
    process = stuck(HANG)
    assert wait_until(lambda: len(started(tmp_path)) == 2)
    process.send_signal(signal.SIGINT)
    assert ended(process, tmp_path) == (130, "interrupted\n")
