"""Events: each lands in one step, in order, whatever lies on disk."""

import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import has8
from has8.data import EventSpikes, batches, bin_events, load_data
from has8.errors import BadInput, UnknownName

SHAPE = (2, 5, 7)
columns = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        *(st.lists(st.integers(0, side - 1), min_size=n, max_size=n) for side in (7, 5, 2, 10**6))
    )
)


def alone(x, y, p, t):
    """The same events, each at a pixel of its own: so none is merged with another."""
    n = len(t)
    return np.arange(n), np.zeros(n, int), np.zeros(n, int), np.asarray(t), (1, 1, n)


def write_atis(path, x, y, p, t):
    """N-MNIST's format: x, y, polarity and 23 bits of time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    word = p.astype(int) << 23 | t
    parts = [x, y, word >> 16, word >> 8 & 255, word & 255]
    path.write_bytes(np.stack(parts, 1).astype(np.uint8).tobytes())


def packed(folder, recordings, labels):
    """The layout of ``nmnist_small.npz``, the same recordings in both parts."""
    arrays = {}
    for part in ("train", "test"):
        for place, name in enumerate(("x", "y", "p")):
            arrays[f"{part}_{name}"] = np.concatenate([r[place] for r in recordings])
        arrays[f"{part}_dt"] = np.concatenate([np.diff(r[3], prepend=0) for r in recordings])
        arrays[f"{part}_offsets"] = np.cumsum([0, *(len(r[3]) for r in recordings)])
        arrays[f"{part}_labels"] = np.array(labels)
    np.savez(folder / "nmnist_small.npz", **arrays)


def some(count, seed=0):
    draw = np.random.default_rng(seed)
    x, y, p = (draw.integers(0, top, count) for top in (34, 34, 2))
    return x, y, p, np.sort(draw.integers(0, 300_000, count))


# Laws


@settings(deadline=None)
@given(columns, st.integers(1, 12), st.sampled_from(["time", "count"]))
def test_each_event_lands_in_one_step_and_none_before_an_earlier_one(events, steps, by):
    x, y, p, t, shape = alone(*events)
    spikes = bin_events(x, y, p, t, shape, steps, by)
    assert spikes.shape == (steps, *shape) and spikes.dtype == torch.float32
    assert spikes.sum(0).eq(1).all()
    landed = spikes[:, 0, 0].argmax(0).numpy()
    assert (np.diff(landed[np.argsort(t, kind="stable")]) >= 0).all()
    counts = spikes.flatten(1).sum(1)
    if by == "count":
        assert counts.max() - counts.min() <= 1
    else:  # a T-th of the time from the first event to the last
        assert (landed == (t - t.min()) * steps // (t.max() - t.min() + 1)).all()


@settings(deadline=None)
@given(columns, st.integers(1, 9), st.sampled_from(["time", "count"]), st.randoms())
def test_a_pixel_spikes_where_any_event_landed(events, steps, by, random):
    x, y, p, t = map(np.array, events)
    spikes = bin_events(x, y, p, t, SHAPE, steps, by)
    assert ((spikes == 0) | (spikes == 1)).all() and 1 <= spikes.sum() <= len(t)
    expected = np.zeros(SHAPE)
    expected[p, y, x] = 1
    assert (spikes.amax(0).numpy() == expected).all()
    if by == "time":  # when they happened counts, and not where they stand
        order = random.sample(range(len(t)), len(t))
        assert spikes.equal(bin_events(x[order], y[order], p[order], t[order], SHAPE, steps))
    assert spikes.equal(bin_events(x, y, p, t + 10**9, SHAPE, steps, by))


@settings(deadline=None)
@given(columns, st.integers(1, 9), st.integers(1, 300_000))
def test_steps_of_a_fixed_length_leave_out_what_comes_later(events, steps, window):
    x, y, p, t, shape = alone(*events)
    spikes = bin_events(x, y, p, t, shape, steps, window_us=window)
    step = (t - t.min()) // window
    assert (spikes.sum(0).flatten().bool().numpy() == (step < steps)).all()
    assert (spikes[:, 0, 0].argmax(0).numpy()[step < steps] == step[step < steps]).all()


# Examples


def test_four_events_by_hand():
    x, y, p, t = [0, 1, 1, 0], [0, 0, 0, 1], [0, 1, 1, 0], [0, 10, 20, 99]
    by_time = bin_events(x, y, p, t, (2, 2, 2), 2)
    assert by_time.nonzero().tolist() == [[0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0]]  # two merged
    by_count = bin_events(x, y, p, t, (2, 2, 2), 2, "count")
    assert by_count.nonzero().tolist() == [
        *[[0, 0, 0, 0], [0, 1, 0, 1]],
        *[[1, 0, 1, 0], [1, 1, 0, 1]],
    ]
    by_window = bin_events(
        [0, 1, 2, 3], [0] * 4, [0] * 4, [5, 14, 15, 25], (1, 1, 4), 2, window_us=10
    )
    assert by_window.nonzero()[:, [0, 3]].tolist() == [[0, 0], [0, 1], [1, 2]]  # the last is late
    assert bin_events([], [], [], [], (2, 2, 2), 3).sum() == 0


def test_nmnist_from_one_file_and_from_its_own_files_is_the_same(tmp_path):
    recordings = [some(200, seed) for seed in range(3)]
    packed(tmp_path, recordings, [0, 1, 2])
    small = load_data("nmnist", tmp_path, steps=5)
    spikes, labels = small.test.tensors()
    assert spikes.shape == (5, 3, 2, 34, 34) and labels.tolist() == [0, 1, 2]
    assert (small.input_shape, small.steps) == ((2, 34, 34), 5)
    for number, recording in enumerate(recordings):
        assert spikes[:, number].equal(bin_events(*recording, (2, 34, 34), 5))
        for part in ("Train", "Test"):
            write_atis(tmp_path / "NMNIST" / part / str(number) / "00001.bin", *recording)
    whole = load_data("nmnist", tmp_path, steps=5)
    assert whole.test.tensors()[0].equal(spikes)
    image, label = whole.test[1]
    assert image.equal(spikes[:, 1]) and label == 1
    together = [x for x, _ in batches(whole.train, 2)]
    assert torch.cat(together, 1).equal(spikes)


def test_an_overflow_of_the_clock_in_a_file_is_no_event(tmp_path):
    x, y = np.array([1, 0, 2]), np.array([1, 240, 2])
    for part in ("Train", "Test"):
        write_atis(tmp_path / "NMNIST" / part / "7" / "a.bin", x, y, x > 0, np.array([5, 6, 7]))
    data = load_data("nmnist", tmp_path, steps=1)
    events = data.test.recordings[0]
    assert (events.x.tolist(), events.y.tolist(), events.t.tolist()) == ([1, 2], [1, 2], [5, 8199])
    assert data.test.labels.tolist() == [7]


def test_another_data_set_is_read_by_tonic_where_it_is_there(tmp_path, monkeypatch):
    asked = []

    class DVSGesture:
        targets = (3, 10)

        def __init__(self, save_to, train):
            asked.append((save_to, train))

        def __len__(self):
            return 2

        def __getitem__(self, index):
            kinds = [("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "?")]
            return np.array([(127, 64, 0, True), (0, 1, 9, False)], kinds), self.targets[index]

    tonic = types.ModuleType("tonic")
    tonic.datasets = types.SimpleNamespace(DVSGesture=DVSGesture)
    monkeypatch.setitem(sys.modules, "tonic", tonic)
    data = load_data("dvs_gesture", tmp_path, image_size=32, steps=2)
    assert asked == [(str(tmp_path), True), (str(tmp_path), False)]
    spikes, labels = data.train.tensors()
    assert spikes.shape == (2, 2, 2, 32, 32) and labels.tolist() == [3, 10]
    assert spikes[:, 0].nonzero().tolist() == [[0, 1, 16, 31], [1, 0, 0, 0]]
    assert len(data.class_names) == 11


# Refusals


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": [0, 7]}, r"x must be from 0 to 6 in the shape \(2, 5, 7\), and is from 0 to 7"),
        ({"p": [-1, 0]}, "p must be from 0 to 1 .* from -1 to 0"),
        ({"t": [0.5, 1.0]}, "t must be an array of whole numbers"),
        ({"t": [0]}, r"equally long, and have \[2, 2, 2, 1\]"),
        ({"steps": 0}, "steps must be a whole number of at least 1"),
        ({"by": "number"}, "by: Invalid enum value 'number'"),
        ({"by": "count", "window_us": 10}, "leave it out with by='count'"),
        ({"shape": (2, 5, 0)}, "shape must be"),
    ],
)
def test_events_that_do_not_fit_are_refused(change, words):
    usual = {"x": [0, 1], "y": [0, 1], "p": [0, 1], "t": [0, 1], "shape": SHAPE, "steps": 2}
    with pytest.raises(BadInput, match=words):
        bin_events(**{**usual, **change})


def test_what_is_missing_is_told_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tonic", None)
    with pytest.raises(BadInput, match="nmnist is not in .*nmnist_small.npz.*pip install tonic"):
        load_data("nmnist", tmp_path, steps=3)
    with pytest.raises(BadInput, match=r"say how many \(steps\)"):
        load_data("nmnist", tmp_path)
    with pytest.raises(BadInput, match="digits holds images: leave them out"):
        load_data("digits", steps=3)
    with pytest.raises(UnknownName, match="did you mean 'nmnist'"):
        load_data("n-mnist")


def test_a_broken_file_is_told(tmp_path):
    (tmp_path / "nmnist_small.npz").write_bytes(b"PK no zip")
    with pytest.raises(BadInput, match=r"nmnist_small.npz cannot be read .*: fetch it again"):
        load_data("nmnist", tmp_path, steps=3)
    for part in ("Train", "Test"):
        (tmp_path / "NMNIST" / part / "0").mkdir(parents=True)
    with pytest.raises(BadInput, match="holds no recordings"):
        load_data("nmnist", tmp_path, steps=3)
    for part in ("Train", "Test"):
        (tmp_path / "NMNIST" / part / "0" / "a.bin").write_bytes(b"1234567")
    with pytest.raises(BadInput, match=r"a.bin is damaged"):
        load_data("nmnist", tmp_path, steps=3).test.tensors()


def test_what_is_for_images_refuses_spikes():
    spikes = EventSpikes([some(9), some(9)], [0, 1], shape=(2, 34, 34), steps=2)
    with pytest.raises(BadInput, match="augment='flip' is for images"):
        next(batches(spikes, 2, augment="flip"))
    data = has8.Data("events", spikes, spikes, (2, 34, 34), ("a", "b"), steps=2)
    with pytest.raises(BadInput, match="fit trains on images, and events is spikes in 2 steps"):
        has8.fit(torch.nn.Flatten(), data, has8.TrainConfig(epochs=1))
