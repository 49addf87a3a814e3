"""Data: every image once, in [0, 1], the same for the same seed, and clear refusals."""

import hashlib
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import law
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from has8 import TrainConfig, create_model, fit
from has8.data import (
    AUGMENTATIONS,
    ArrayImages,
    batches,
    channel_statistics,
    data_names,
    load_data,
)
from has8.errors import BadInput, UnknownName


def numbered(count, size=2, flip=False):
    """Images whose first channel holds their own index, low byte and high byte."""
    index = torch.arange(count)
    images = torch.zeros(count, 2, size, size, dtype=torch.uint8)
    images[:, 0], images[:, 1] = (index % 256)[:, None, None], (index // 256)[:, None, None]
    return ArrayImages(images, index, flip=flip)


def noise(count, size, flip):
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(1, 256, (count, 3, size, size), generator=generator)
    return ArrayImages(images.to(torch.uint8), torch.arange(count), flip=flip)


def image_folder(folder, classes, *, count, size=(12, 8), mode="RGB", first=0):
    """``count`` files a class; the pixels of a file share a value of their own, from ``first``."""
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            value = first + 20 * place + number
            colour = (value, 0, 255 - value) if mode == "RGB" else value
            Image.new(mode, size, colour).save(folder / name / f"{number:03}.png")
    return folder


# Laws


@settings(deadline=None)
@given(
    st.integers(0, 600),
    st.integers(1, 70),
    st.none() | st.integers(0, 2**32),
    st.sampled_from(AUGMENTATIONS),
)
def test_batches_hold_every_image_once_with_its_label(count, batch_size, seed, augment):
    seen = []
    for images, labels in batches(numbered(count), batch_size, shuffle_seed=seed, augment=augment):
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        assert 1 <= len(images) == len(labels) <= batch_size
        codes = (images[:, :, 0, 0] * 255).round().long()
        assert torch.equal(codes[:, 0] + 256 * codes[:, 1], labels)
        seen += labels.tolist()
    assert sorted(seen) == list(range(count))
    if seed is None:
        assert seen == sorted(seen)


@law(40)
@given(
    st.integers(1, 40),
    st.integers(1, 12),
    st.none() | st.integers(0, 2**32),
    st.sampled_from(AUGMENTATIONS),
    st.integers(0, 12),
)
def test_the_first_batches_can_be_left_out(count, batch_size, seed, augment, first):
    whole, rest = (
        list(
            batches(
                noise(count, 32, flip=True),
                batch_size,
                indices=torch.arange(count).flip(0),
                shuffle_seed=seed,
                augment=augment,
                first=skipped,
            )
        )
        for skipped in (0, first)
    )
    assert len(rest) == max(0, len(whole) - first)
    for (images, labels), (again, same) in zip(whole[first:], rest, strict=True):
        assert torch.equal(images, again) and torch.equal(labels, same)


def test_batches_left_out_are_not_read(monkeypatch):
    data, asked = numbered(20), []
    read = data.read
    monkeypatch.setattr(data, "read", lambda chunks: asked.extend(chunks) or read(asked))
    assert [len(y) for _, y in batches(data, 8, first=1)] == [8, 4]
    assert torch.cat(asked).tolist() == list(range(8, 20))


@pytest.mark.parametrize("augment", ["crop", "resized"])
def test_the_seed_alone_decides_order_and_augmentation(augment):
    data = noise(50, 32, flip=True)

    def read(seed):
        pairs = list(batches(data, 16, shuffle_seed=seed, augment=augment))
        return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])

    torch.manual_seed(1)
    images, labels = read(3)
    torch.manual_seed(2)
    again, same_labels = read(3)
    assert torch.equal(images, again) and torch.equal(labels, same_labels)
    assert not torch.equal(labels, read(4)[1])


def test_batches_are_augmented_each_in_its_own_way():
    data = noise(1, 32, flip=True)
    stream = batches(data, 8, indices=torch.zeros(64, dtype=torch.int64), augment="crop")
    assert len({images.numpy().tobytes() for images, _ in stream}) == 8


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("augment", "size"), [("flip", 32), ("crop", 31), ("crop", 32)])
def test_augmentation_is_a_crop_of_the_padded_image_or_of_its_mirror_image(augment, size, flip):
    data = noise(48, size, flip)
    original = data.images.clone()
    margin = 4 if size >= 32 and augment == "crop" else 0
    found = set()
    for images, labels in batches(data, 8, shuffle_seed=1, augment=augment):
        for image, label in zip(images, labels.tolist(), strict=True):
            places = [
                (mirrored, top, left)
                for mirrored in (False, True)
                for top in range(2 * margin + 1)
                for left in range(2 * margin + 1)
                if torch.equal(image, _crop(data[label][0], mirrored, top, left, margin))
            ]
            assert len(places) == 1
            found.add(places[0])
    mirrored, tops, lefts = (set(column) for column in zip(*found, strict=True))
    assert mirrored == ({False, True} if flip else {False})
    if margin:
        assert len(tops) > 3 and len(lefts) > 3
        assert min(tops) == min(lefts) == 0 and max(tops) == max(lefts) == 8
        assert any(top != left for _, top, left in found)
    assert torch.equal(data.images, original)


def _crop(image, mirrored, top, left, margin):
    image = image.flip(2) if mirrored else image
    padded = torch.nn.functional.pad(image, (margin,) * 4)
    return padded[:, top : top + image.shape[1], left : left + image.shape[2]]


@pytest.mark.parametrize("flip", [False, True])
def test_a_resized_image_is_a_stretched_rectangle_of_it(flip):
    """On ramps of slope 1 the slope of the result is the side of its rectangle."""
    ramp = torch.arange(64, dtype=torch.uint8)
    rows, columns = ramp[:, None].expand(64, 64), ramp[None].expand(64, 64)
    data = ArrayImages(torch.stack([columns, rows])[None], [0], flip=flip)
    many = torch.zeros(400, dtype=torch.int64)
    (images, _), *_ = batches(data, 400, indices=many, augment="resized")
    pixels = images * 255
    (x, y), inner = pixels.unbind(1), slice(16, 48)
    wide, tall = x[:, 9, 47] - x[:, 9, 16], y[:, 47, 9] - y[:, 16, 9]
    wide, tall = wide / 31, tall / 31
    line = (torch.arange(64) - 31.5)[inner]
    across = x[:, 31:33, 31:33].mean((1, 2))  # the rectangle's centre
    down = y[:, 31:33, 31:33].mean((1, 2))
    assert torch.allclose(x[:, 5, inner], across[:, None] + wide[:, None] * line, atol=1e-3)
    assert torch.allclose(y[:, inner, 5], down[:, None] + tall[:, None] * line, atol=1e-3)
    assert set(wide.sign().tolist()) == ({-1.0, 1.0} if flip else {1.0}) and tall.min() > 0
    for centre, side in ((across, wide.abs()), (down, tall)):
        assert ((centre - 31.5).abs() <= 32 * (1 - side) + 1e-3).all()
        assert side.max() <= 1 + 1e-4 and (centre - 31.5).std() > 3
    area, aspect = (wide.abs() * tall), wide.abs() / tall
    assert 0.0799 < area.min() < 0.2 and area.max() > 0.9
    assert 0.749 < aspect.min() < 0.8 and 1.25 < aspect.max() < 1.334


# Examples


def test_digits_are_the_sixteenths_of_the_bundled_file_split_by_position():
    from sklearn.datasets import load_digits

    data = load_data("digits")
    bunch = load_digits()
    assert data.name == "digits" and data.input_shape == (1, 8, 8)
    assert data.class_names == tuple("0123456789")
    assert (len(data.train), len(data.test)) == (1437, 360)
    images, labels = next(batches(data.test, 360))
    assert np.array_equal(images[:, 0].numpy() * 16, bunch.images[1437:])
    assert np.array_equal(labels.numpy(), bunch.target[1437:])
    assert np.array_equal(data.train[0][0][0].numpy() * 16, bunch.images[0])
    assert not data.train.flip


def test_indices_choose_what_is_read():
    chosen = torch.tensor([7, 3, 3])
    (_, labels), *rest = batches(numbered(9), 8, indices=chosen)
    assert labels.tolist() == [7, 3, 3] and not rest
    assert sorted(
        y for _, labels in batches(numbered(9), 2, indices=chosen, shuffle_seed=0) for y in labels
    ) == [3, 3, 7]


def test_image_size_resizes_small_images_within_their_range():
    data = load_data("digits", image_size=16)
    images, _ = next(batches(data.train, 32))
    assert data.input_shape == (1, 16, 16) and images.shape == (32, 1, 16, 16)
    assert images.min() >= 0 and images.max() <= 1
    small, _ = next(batches(load_data("digits").train, 32))
    assert torch.allclose(images.mean((1, 2, 3)), small.mean((1, 2, 3)), atol=0.03)


def test_single_images_count_from_both_ends():
    data = numbered(5)
    assert data[-1][1] == 4 and data[0][0].shape == (2, 2, 2)
    with pytest.raises(IndexError):
        data[5]


def test_class_folders_hold_out_a_fifth_of_each_class_by_the_hash_of_the_name(tmp_path):
    root = image_folder(tmp_path / "pets", ["cat", "dog"], count=10)
    (root / "cat" / "notes.txt").write_text("not an image")
    data = load_data(str(root), image_size=4)
    assert (data.name, data.class_names, data.input_shape) == ("pets", ("cat", "dog"), (3, 4, 4))
    assert (len(data.train), len(data.test)) == (16, 4)
    assert not set(data.train.files) & set(data.test.files)
    assert [y for _, y in data.test] == [0, 0, 1, 1]
    by_hash = sorted(
        (f"{number:03}.png" for number in range(10)),
        key=lambda name: hashlib.sha256(name.encode()).hexdigest(),
    )
    assert [file.name for file in data.test.files[:2]] == by_hash[:2]


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_train_and_test_folders_are_taken_as_they_are(tmp_path, held_out):
    image_folder(tmp_path / "train", ["a", "b"], count=3)
    image_folder(tmp_path / held_out, ["b"], count=2, first=100)
    data = load_data(str(tmp_path))
    assert (len(data.train), len(data.test)) == (6, 2)
    assert data.input_shape == (3, 224, 224)
    assert [y for _, y in data.test] == [1, 1]
    image, label = data.train[4]
    assert label == 1
    assert torch.allclose(image[:, 9, 9] * 255, torch.tensor([21.0, 0.0, 234.0]))


def test_folder_images_become_rgb_squares_from_their_centre(tmp_path):
    for first, part in enumerate(("train", "test")):
        image_folder(tmp_path / part, ["a", "b"], count=1, mode="L", first=first)
    wide = np.zeros((8, 24), dtype=np.uint8)
    wide[:, 8:16] = 200
    Image.fromarray(wide).save(tmp_path / "train" / "a" / "000.png")
    image, label = load_data(str(tmp_path), image_size=8).train[0]
    assert label == 0 and torch.equal(image, torch.full((3, 8, 8), 200 / 255))


def test_folders_read_the_same_twice_in_any_batch_size(tmp_path):
    data = load_data(str(image_folder(tmp_path, ["a", "b"], count=10)), image_size=6)
    first = torch.cat([x for x, _ in batches(data.train, 3)])
    again = torch.cat([x for x, _ in batches(data.train, 16)])
    assert torch.equal(first, again) and len(first) == 16


def test_preprocess_takes_the_centre_or_squeezes_the_whole_image(tmp_path):
    thirds = np.repeat(np.array([[50, 100, 200]], dtype=np.uint8), 8, axis=1).repeat(8, axis=0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.fromarray(thirds).save(tmp_path / name / f"{number}.png", dpi=(number + 1,) * 2)
    crop, paper = (
        load_data(str(tmp_path), image_size=8, preprocess=way) for way in ("crop", "paper")
    )
    assert (crop.preprocess, paper.preprocess) == ("crop", "paper")
    assert torch.equal(crop.train[0][0], torch.full((3, 8, 8), 100 / 255))
    row = (paper.train[0][0][0, 4] * 255).round()
    assert row[[0, -1]].tolist() == [50, 200] and (row.diff() >= 0).all()
    assert paper.input_shape == (3, 8, 8)


def test_channel_statistics_are_over_all_pixels_of_images_spread_evenly():
    images = torch.zeros(5, 2, 1, 2, dtype=torch.uint8)
    images[0, 0], images[4, 0] = torch.tensor([[0, 255]]), torch.tensor([[255, 255]])
    images[1:4, 0] = 7  # not among the two that are read
    images[:, 1] = 51
    mean, std = channel_statistics(ArrayImages(images, [0] * 5), limit=2)
    assert mean == pytest.approx((0.75, 0.2)) and std == pytest.approx((0.1875**0.5, 0), abs=1e-7)
    levels = torch.arange(256, dtype=torch.uint8).view(1, 256, 1, 1).expand(5, 256, 31, 31)
    mean, std = channel_statistics(ArrayImages(levels, [0] * 5))
    assert mean == pytest.approx([level / 255 for level in range(256)])
    assert std == pytest.approx([0.0] * 256, abs=1e-6)
    data = noise(300, 5, flip=False)
    everything = data.tensors()[0].double()
    mean, std = channel_statistics(data)
    assert mean == pytest.approx(everything.mean((0, 2, 3)).tolist())
    assert std == pytest.approx(everything.std((0, 2, 3), correction=0).tolist())


@pytest.mark.parametrize(
    ("name", "place", "stray"),
    [
        ("caltech101", "caltech101/101_ObjectCategories", "BACKGROUND_Google"),
        ("caltech101", "101_ObjectCategories", "BACKGROUND_Google"),
        ("caltech101", "caltech101", "BACKGROUND_Google"),
        ("caltech101", "caltech101_2", ".cache"),
        ("caltech256", "caltech256/256_ObjectCategories", ".cache"),
        ("caltech256", "caltech256", ".cache"),
    ],
)
def test_caltech_is_found_in_its_places_and_named_after_its_classes(tmp_path, name, place, stray):
    classes = ["001.ak47", "257.clutter"]
    image_folder(tmp_path / place, [*classes, stray], count=5)
    data = load_data(name, tmp_path, image_size=4)
    assert data.name == f"{name}_2" and data.class_names == tuple(classes)
    assert (len(data.train), len(data.test)) == (8, 2)
    assert data.train.files[0].is_relative_to(tmp_path / place)


def test_a_whole_data_set_keeps_its_name_and_goes_before_its_parts(tmp_path):
    for count in (3, 101, 20):
        names = [f"c{number:03}" for number in range(count)]
        image_folder(tmp_path / f"caltech101_{count}", names, count=3, size=(4, 4))
    assert load_data("caltech101", tmp_path, 4).name == "caltech101"  # the largest part
    image_folder(tmp_path / "caltech101", ["a", "b"], count=3)
    assert load_data("caltech101", tmp_path, 4).name == "caltech101_2"


def test_imagenet_is_train_and_val_with_a_folder_for_each_wnid(tmp_path):
    wnids = ["n01440764", "n01443537"]
    image_folder(tmp_path / "imagenet" / "train", wnids, count=3)
    image_folder(tmp_path / "imagenet" / "val", wnids, count=2)
    (tmp_path / "imagenet" / "test").mkdir()  # its images have no labels
    (tmp_path / "imagenet" / "test" / "ILSVRC2012_test_00000001.JPEG").touch()
    data = load_data("imagenet", tmp_path)
    assert (data.name, data.class_names) == ("imagenet_2", tuple(wnids))
    assert (len(data.train), len(data.test)) == (6, 4)
    assert data.train.flip and data.input_shape == (3, 224, 224)


def test_caltech_is_downloaded_by_torchvision_only_when_absent(tmp_path, monkeypatch):
    asked = []

    def download(root, *, download):
        asked.append((root, download))
        image_folder(root / "caltech256" / "256_ObjectCategories", ["a", "b"], count=5)

    fake = types.ModuleType("torchvision")
    fake.datasets = types.SimpleNamespace(Caltech256=download)
    monkeypatch.setitem(sys.modules, "torchvision", fake)
    assert len(load_data("caltech256", tmp_path, 4).train) == 8
    load_data("caltech256", tmp_path, 4)
    assert asked == [(tmp_path, True)]


def test_has8_data_names_the_root_and_files_present_are_not_downloaded(tmp_path, monkeypatch):
    asked = _fake_mnist(monkeypatch, absent=False)
    monkeypatch.setenv("HAS8_DATA", str(tmp_path))
    data = load_data("mnist")
    assert asked == [(tmp_path, False), (tmp_path, False)]
    assert data.input_shape == (1, 28, 28) and len(data.train) == 4
    load_data("mnist", root=tmp_path / "other")
    assert asked[-1] == (tmp_path / "other", False)


@pytest.mark.parametrize(
    ("name", "path", "shape", "counts", "labels"),
    [
        ("mnist", "MNIST", (1, 28, 28), (60000, 10000), [7, 2, 1, 0]),
        ("fashion_mnist", "FashionMNIST", (1, 28, 28), (60000, 10000), [9, 2, 1, 1]),
        ("cifar10", "cifar-10-batches-py", (3, 32, 32), (50000, 10000), [3, 8, 8, 0]),
    ],
)
def test_real_files(name, path, shape, counts, labels):
    root = _real_data(path)
    data = load_data(name, root)
    assert data.input_shape == shape
    assert (len(data.train), len(data.test)) == counts
    assert [data.test[i][1] for i in range(4)] == labels
    image = data.train[0][0]
    assert image.shape == shape and image.min() >= 0 and 0.9 < image.max() <= 1


def test_real_channel_statistics():
    mean, std = channel_statistics(load_data("cifar10", _real_data("cifar-10-batches-py")).train)
    assert mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=2e-3)
    assert std == pytest.approx((0.2470, 0.2435, 0.2616), abs=2e-3)


@pytest.mark.parametrize("preprocess", ["crop", "paper"])
def test_real_class_folders(preprocess):
    root = _real_data("caltech101_64")
    data = load_data("caltech101", root, image_size=16, preprocess=preprocess)
    total = len(data.train) + len(data.test)
    assert (data.name, total) == ("caltech101_64", 4726) and len(data.class_names) == 64
    assert len(data.test) == pytest.approx(total / 5, rel=0.02)
    assert next(batches(data.train, 40))[0].shape == (40, 3, 16, 16)


def _real_data(name):
    root = os.environ.get("HAS8_DATA")
    if not root or not (Path(root) / name).exists():
        pytest.skip(f"{name} not found: set HAS8_DATA to a folder that holds it")
    return Path(root)


def _fake_mnist(monkeypatch, *, absent):
    """Replace torchvision's MNIST; returns the list of (root, download) it is asked for."""
    asked = []

    class MNIST:
        classes = tuple("01")

        def __init__(self, root, *, train, download):
            asked.append((root, download))
            if absent:
                raise OSError("no route to host") if download else RuntimeError("not found")
            self.data = torch.zeros(4, 28, 28, dtype=torch.uint8)
            self.targets = torch.zeros(4, dtype=torch.int64)

    fake = types.ModuleType("torchvision")
    fake.datasets = types.SimpleNamespace(MNIST=MNIST)
    monkeypatch.setitem(sys.modules, "torchvision", fake)
    return asked


# Refusals


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownName, match=r"unknown data set 'digit': did you mean 'digits'"):
        load_data("digit")
    files = ["caltech101", "caltech256", "imagenet"]
    assert data_names() == [
        *files[:2],
        "cifar10",
        "cifar100",
        "digits",
        "fashion_mnist",
        *files[2:],
        "mnist",
    ]


def test_a_failed_download_says_where_files_are_looked_for(tmp_path, monkeypatch):
    asked = _fake_mnist(monkeypatch, absent=True)
    with pytest.raises(BadInput, match=r"no route to host.*--data-root or HAS8_DATA") as caught:
        load_data("mnist", tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert asked == [(tmp_path, False), (tmp_path, True)]


def test_absent_class_folders(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match=r"imagenet is not in .*imagenet and cannot be downloaded"):
        load_data("imagenet", tmp_path)

    def fails(root, *, download):
        (root / "caltech101").mkdir()  # as torchvision does
        raise OSError("no route to host")

    fake = types.ModuleType("torchvision")
    fake.datasets = types.SimpleNamespace(Caltech101=fails)
    monkeypatch.setitem(sys.modules, "torchvision", fake)
    with pytest.raises(BadInput, match=r"Caltech101 are in .*no route to host.*--data-root"):
        load_data("caltech101", tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"augment": "flips"}, "augment must be one of none, flip, crop, resized, not 'flips'"),
        ({"augment": True}, "not True"),
        ({"batch_size": 0}, "size of at least 1.* not 0, 0 and None"),
        ({"first": -1}, "not 2, -1 and None"),
        ({"shuffle_seed": -1}, "not 2, 0 and -1"),
    ],
)
def test_batches_refuse_at_once(wrong, message):
    with pytest.raises(BadInput, match=message):
        batches(numbered(3), **{"batch_size": 2, **wrong})


def test_other_refusals():
    with pytest.raises(BadInput, match="preprocess must be crop, paper or .*, not 'centre'"):
        load_data("digits", preprocess="centre")
    with pytest.raises(BadInput, match="at least one image, not 0"):
        channel_statistics(numbered(3), limit=0)
    with pytest.raises(BadInput, match="at least one image, not 0"):
        channel_statistics(numbered(0))


def test_paths_that_are_no_folder_of_images(tmp_path):
    with pytest.raises(BadInput, match="is no folder"):
        load_data(str(tmp_path / "absent"))
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is no folder"):
        load_data(str(tmp_path / "file"))
    with pytest.raises(BadInput, match="not hold enough images"):
        load_data(str(tmp_path))
    with pytest.raises(BadInput, match="image_size must be a whole number of at least 1, not 0"):
        load_data("digits", image_size=0)


def test_a_test_class_that_training_lacks(tmp_path):
    image_folder(tmp_path / "train", ["a", "b"], count=2)
    image_folder(tmp_path / "test", ["c"], count=2)
    with pytest.raises(BadInput, match="holds the class 'c'"):
        load_data(str(tmp_path))


def test_images_of_sixteen_bits_keep_their_range(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.fromarray(ramp).save(tmp_path / name / f"{number}.png", dpi=(number + 1,) * 2)
    images, _ = load_data(str(tmp_path), image_size=64).train.tensors()
    assert images.min() == 0 and images.max() == 1
    assert torch.allclose(images[0, 0, 0], torch.linspace(0, 1, 64), atol=1e-4)


def test_a_broken_image_is_named(tmp_path):
    root = image_folder(tmp_path, ["a", "b"], count=6)
    for file in (root / "b").iterdir():
        file.write_bytes(file.read_bytes()[:40])
    data = load_data(str(root), image_size=8)
    with pytest.raises(BadInput, match=r"b.00\d\.png cannot be read as an image"):
        list(batches(data.train, 4))


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.zeros(3, 1, 4, 4).double(), [0, 0, 0], r"uint8\[N, C, H, W\]"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), [0, 0, 0], r"uint8\[N, C, H, W\]"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8).numpy(), [0, 0, 0], "not an array uint8"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), [0, 0], "labels must be 3 whole numbers"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3), "not an array float32"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), [0, -1, 0], "labels must be from 0 up, .* -1"),
    ],
)
def test_arrays_of_another_layout(images, labels, words):
    with pytest.raises(BadInput, match=words):
        ArrayImages(images, labels)


def test_a_user_without_a_home_has_digits_and_is_told_what_is_missing(monkeypatch):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("HAS8_DATA", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert len(load_data("digits").test) == 360
    with pytest.raises(BadInput, match="~/.cache/has8/data"):
        load_data("imagenet")


def test_arrays_in_a_file(tmp_path):
    vectors, bytes_ = np.linspace(0, 1, 12).reshape(3, 4), np.arange(24, dtype=np.uint8)
    np.save(tmp_path / "vectors.npy", vectors)
    np.savez(tmp_path / "some.npz", x=bytes_.reshape(2, 3, 2, 2), y=[2, 0])
    plain, labelled = (load_data(str(tmp_path / name)) for name in ("vectors.npy", "some.npz"))
    assert (plain.name, plain.class_names, plain.input_shape) == ("vectors", (), (1, 1, 4))
    images, labels = plain.tests()
    assert labels is None and torch.equal(images.flatten(1), torch.tensor(vectors).float())
    assert labelled.class_names == ("0", "1", "2")
    images, labels = labelled.tests(1)
    assert labels.tolist() == [2] and torch.equal(images.flatten(), torch.arange(12) / 255)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.zeros((2, 4))}, "has no array x of images, but images"),
        ({"x": np.zeros((2, 4)), "y": np.zeros(3, np.int64)}, "labels must be 2 whole numbers"),
        ({"x": np.zeros((2, 3, 4))}, r"must hold images \[N, C, H, W\]"),
        ({"x": np.full((2, 4), 7.0)}, "from 0 to 1, and has values from 7 to 7"),
        ({"x": np.zeros((2, 4), np.int64)}, "as bytes, or as floats"),
        ({"x": np.array([[None]])}, r"damaged \(ValueError\)"),
    ],
)
def test_files_that_hold_no_such_arrays(tmp_path, arrays, words):
    np.savez(tmp_path / "some.npz", **arrays)
    with pytest.raises(BadInput, match=words):
        load_data(str(tmp_path / "some.npz"))


def test_arrays_without_labels_are_not_trained_on(tmp_path):
    np.save(tmp_path / "some.npy", np.zeros((2, 1, 8, 8), np.float32))
    np.save(tmp_path / "wide.npy", np.zeros((2, 1, 4, 8), np.float32))
    with pytest.raises(BadInput, match="images of 4 x 8 pixels, and squares of 8 are asked for"):
        load_data(str(tmp_path / "wide.npy"), image_size=8)
    with pytest.raises(BadInput, match="there is no file"):
        load_data(str(tmp_path / "absent.npy"))
    model = create_model("has8_vgg", num_classes=2, in_channels=1)
    with pytest.raises(BadInput, match="trains on labels, and some has none"):
        fit(model, load_data(str(tmp_path / "some.npy")), TrainConfig())


@pytest.mark.parametrize("labels", [np.array([0, 10**9]), np.array(list("ab")), np.zeros(2)])
def test_labels_of_a_file_that_are_no_numbers_of_classes(tmp_path, labels):
    np.savez(tmp_path / "some.npz", x=np.zeros((2, 1, 2, 2), np.float32), y=labels)
    with pytest.raises(BadInput, match=r"labels y of .*some\.npz must be"):
        load_data(str(tmp_path / "some.npz"))


def test_own_data_are_told_from_those_that_has8_knows_by_name(tmp_path):
    """A mapping says what data it was made on, and later commands take the name's own."""
    for name in ("digits.npz", "own.npz"):
        np.savez(tmp_path / name, x=np.zeros((2, 1, 8, 8), np.float32), y=[0, 1])
    named = {load_data(str(tmp_path / name)).name for name in ("digits.npz", "own.npz")}
    assert named == {"digits.npz", "own"}
    for folder in ("mnist", "own"):
        for shade, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
            (tmp_path / folder / place).mkdir(parents=True)
            Image.new("L", (4, 4), shade).save(tmp_path / folder / place / "1.png")
    assert [load_data(str(tmp_path / folder)).name for folder in ("mnist", "own")] == [
        "mnist/",
        "own",
    ]
