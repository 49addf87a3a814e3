"""A mapped model beside its float graph: sums that do not depend on how a run is cut, and files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from has8.blocks import OverTime
from has8.encoders import DuplicateEncoder
from has8.errors import BadInput
from has8.neurons import Leaky
from hwsim import Faults, Faulty, Recording, agreement, simulate
from hwsim.activity import Overflow
from hwsim.backends.fast.backend import Fast
from hwsim.experiments import recording
from hwsim.experiments.fidelity import (
    FloatGraph,
    agreements,
    float_answers,
    joined_agreements,
    paired,
)
from mapping import map_model
from mapping.graph.evaluate import evaluate, evaluate_nodes, moved


@pytest.fixture(scope="module")
def mapped(vgg, digits):
    return map_model(vgg, calibration=digits[:64], weight_bits=4)


@pytest.fixture(scope="module")
def labels(mapped, digits):
    return (evaluate(mapped.graph, digits[:60]).argmax(1) + torch.arange(60) // 50) % 10


def brute_force(mapped, x):
    """Spikes of chip and float graph, all at once."""
    run = simulate(mapped, x, batch_size=len(x), record=("spikes",))
    values = {mapped.graph.input.name: x}
    evaluate_nodes(mapped.graph, moved(mapped.graph, [n.name for n in mapped.graph], x), values)
    for chip in mapped.chip_segments:
        for name, spikes in run.spikes[chip.name].items():
            yield name, spikes, values[name].bool()


def test_it_counts_what_a_comparison_of_everything_finds(mapped, digits, labels):
    x = digits[:60]
    found = agreement(mapped, x, labels=labels, batch_size=60)
    float_answers = evaluate(mapped.graph, x).argmax(1)
    assert torch.equal(found.float_answers, float_answers)
    assert torch.equal(found.answers, simulate(mapped, x).logits.argmax(1))
    assert found.share == (found.answers == float_answers).double().mean()
    assert found.float_accuracy == pytest.approx(50 / 60)
    assert found.accuracy == (found.answers == labels).double().mean()
    assert found.overflow == Overflow()
    expected = list(brute_force(mapped, x))
    assert [name for name, _, _ in expected] == [layer.population for layer in found.layers]
    for (_, chip, float_), layer in zip(expected, found.layers, strict=True):
        differs = chip != float_
        assert (layer.values, layer.differing) == (differs.numel(), differs.sum())
        assert (layer.spikes, layer.float_spikes) == (chip.sum(), float_.sum())
        assert layer.share == layer.differing / layer.values > 0  # 4 bits differ somewhere
        first = layer.first
        where = tuple(torch.nonzero(differs)[0].tolist())
        assert (first.step, first.sample, *first.index) == where
        assert (first.left, first.right) == (int(chip[where]), int(float_[where]))


def test_there_is_one_float_baseline(mapped, digits, labels):
    """has8-map's float accuracy and has8 simulate's come from the same function."""
    x, seen = digits[:60], []
    answers = float_answers(mapped, x, batch_size=25, on_progress=lambda *now: seen.append(now))
    assert seen == [(25, 60), (50, 60), (60, 60)]
    found = agreements(mapped, paired(mapped, x, labels, 25), ["fast", Silent()], total=60)
    for each in found:
        assert torch.equal(answers, each.float_answers)
        assert each.float_accuracy == float((answers == labels).double().mean())
    assert torch.equal(answers, evaluate(mapped.graph, x).argmax(1))
    spikes, logits = FloatGraph(mapped)(x)
    assert torch.equal(logits, evaluate(mapped.graph, x))
    expected = {name: float_ for name, _, float_ in brute_force(mapped, x)}
    assert spikes.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in spikes.items())
    assert len(float_answers(mapped, x[:0])) == 0


@pytest.mark.parametrize("cuts", [[7] * 8 + [4], [1, 59], [30, 30]])
def test_neither_batches_nor_parts_change_it(mapped, digits, labels, cuts):
    backend = Faulty(Fast(), Faults(0.001, 0.01, 0.01))  # chance is not to change either
    x = digits[:60]
    whole = agreement(mapped, x, backend, labels=labels, batch_size=60)
    parts, first = [], 0
    for cut in cuts:
        here = slice(first, first + cut)
        part = agreement(mapped, x[here], backend, labels=labels[here], first=first, batch_size=13)
        parts.append(part)
        first += cut
    found = joined_agreements(parts)
    assert found.layers == whole.layers
    for name in ("answers", "float_answers", "labels"):
        assert torch.equal(getattr(found, name), getattr(whole, name))
    assert (found.samples, found.accuracy) == (60, whole.accuracy)


def test_a_model_with_nothing_on_the_chip_is_its_float_graph(vgg, digits):
    on_host = map_model(vgg, partition="none", calibration=digits[:64])
    found = agreement(on_host, digits[:30], batch_size=30)
    assert (found.share, found.layers, found.overflow) == (1, (), Overflow())
    assert found.accuracy is None and found.float_accuracy is None
    with pytest.raises(BadInput, match="the model takes images"):
        agreement(on_host, digits[:30, :, :4])


class Silent(Fast):
    """A backend that counts no overflows."""

    def compile(self, segment, registers):
        program = super().compile(segment, registers)
        return lambda inputs, **options: replace(program(inputs, **options), overflows={})


def test_what_a_backend_does_not_count_is_not_known(mapped, digits):
    found = agreement(mapped, digits[:4], Silent(), batch_size=2)
    assert found.overflow is None
    assert {layer.overflow for layer in found.layers} == {None}


def test_overflows_are_counted_for_each_layer(mapped, digits):
    """A membrane of few bits is clipped."""
    narrow = replace(mapped, target=replace_registers(mapped.target, state_bits=16, keep_top=False))
    run = simulate(narrow, digits[:20])
    found = agreement(narrow, digits[:20], batch_size=7)
    assert {x.population: x.overflow for x in found.layers} == dict(run.activity.overflows)
    assert found.overflow.u_wraps + found.overflow.v_clips > 0


def replace_registers(target, **changes):
    import msgspec

    return msgspec.structs.replace(
        target, registers=msgspec.structs.replace(target.registers, **changes)
    )


def test_outputs_with_steps_are_summed_over_them(digits, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(),
        DuplicateEncoder(6),
        OverTime(nn.Linear(64, 20)),
        Leaky(beta=0.9, threshold=0.3),
        OverTime(nn.Linear(20, 10)),
        Leaky(beta=1.0, threshold=0.2),
    )
    mapped = map_model(net, input_shape=(1, 8, 8))
    kept = Recording(mapped, 12, ["spikes"])
    found = agreement(mapped, digits[:12], batch_size=5, recording=kept)
    run = simulate(mapped, digits[:12])
    assert run.logits.shape == (6, 12, 10)
    assert torch.equal(found.answers, run.logits.sum(0).argmax(1))
    assert torch.equal(found.float_answers, float_answers(mapped, digits[:12], batch_size=7))
    assert np.array_equal(kept.arrays["logits"], run.logits)
    assert kept.arrays["labels"].tolist() == [-1] * 12


def test_a_recording_holds_the_run_whatever_the_batches(mapped, digits, labels, tmp_path):
    x = digits[:20]
    kept = Recording(mapped, 20, ["spikes", "membranes"])
    agreement(mapped, x, labels=labels[:20], batch_size=7, recording=kept)
    kept.save(tmp_path / "new" / "run.npz")
    run = simulate(mapped, x, record=("spikes", "membranes"))
    expected = {"logits", "float_logits", "labels"}
    with np.load(tmp_path / "new" / "run.npz") as file:
        for what in ("inputs", "spikes", "membranes"):
            for segment, tensors in getattr(run, what).items():
                for name, tensor in tensors.items():
                    key = f"{segment}/{what}/{name}"
                    assert np.array_equal(file[key], tensor), key
                    assert file[key].dtype == (np.int32 if what == "membranes" else bool)
                    expected.add(key)
        assert set(file.files) == expected
        assert np.allclose(file["logits"], run.logits, atol=1e-5)
        assert np.allclose(file["float_logits"], evaluate(mapped.graph, x), atol=1e-5)
        assert file["labels"].tolist() == labels[:20].tolist()
        assert kept.bytes == sum(file[key].nbytes for key in file.files)
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_half_a_recording_is_of_its_part(mapped, digits):
    x = digits[:9]
    kept = Recording(mapped, 4, ["membranes"], first=5)
    agreement(mapped, x[5:], batch_size=3, first=5, recording=kept)
    run = simulate(mapped, x, record=("membranes",))
    for segment, tensors in run.membranes.items():
        for name, tensor in tensors.items():
            assert np.array_equal(kept.arrays[f"{segment}/membranes/{name}"], tensor[:, 5:])
    assert not any("/spikes/" in key for key in kept.arrays)


def test_recordings_that_do_not_fit_are_refused_before_the_run(mapped, tmp_path, monkeypatch):
    each = Recording(mapped, 1, ["spikes"]).bytes
    monkeypatch.setattr(recording, "_free_memory", lambda: 2 * 10 * each)
    assert Recording(mapped, 10, ["spikes"]).bytes == 10 * each
    with pytest.raises(BadInput, match="at most 10 samples"):
        Recording(mapped, 11, ["spikes"])
    with pytest.raises(BadInput, match="recording spikes and membranes of 10 samples takes"):
        Recording(mapped, 10, ["membranes", "spikes"])
    monkeypatch.setattr(recording, "_free_memory", lambda: None)
    kept = Recording(mapped, 10, ["spikes"])
    kept.check_disk(tmp_path / "x.npz")
    room = type("Usage", (), {"free": 3 * each})
    monkeypatch.setattr(recording.shutil, "disk_usage", lambda path: room)
    with pytest.raises(BadInput, match=r"of disk at .* at most 3 samples"):
        kept.check_disk(tmp_path / "absent" / "x.npz")
    with pytest.raises(BadInput, match="only spikes and membranes can be recorded, not 'spike'"):
        Recording(mapped, 1, ["spike"])
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"):
        kept.save(tmp_path / "file" / "x.npz")


def test_the_kernel_says_how_much_memory_is_free():
    free = recording._free_memory()
    assert free is None or free > 1 << 20
