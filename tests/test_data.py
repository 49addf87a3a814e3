"""Data: every image once, in [0, 1], the same for the same seed, and clear refusals."""

import hashlib
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from has8.data import ArrayImages, batches, data_names, load_data
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


def image_folder(folder, classes, *, count, size=(12, 8), mode="RGB"):
    """``count`` files a class; all pixels of a file share a value of their own."""
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            value = 20 * place + number
            colour = (value, 0, 255 - value) if mode == "RGB" else value
            Image.new(mode, size, colour).save(folder / name / f"{number:03}.png")
    return folder


# Laws


@settings(deadline=None)
@given(st.integers(0, 600), st.integers(1, 70), st.none() | st.integers(0, 2**32), st.booleans())
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


def test_the_seed_alone_decides_order_and_augmentation():
    data = noise(50, 32, flip=True)

    def read(seed):
        pairs = list(batches(data, 16, shuffle_seed=seed, augment=True))
        return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])

    torch.manual_seed(1)
    images, labels = read(3)
    torch.manual_seed(2)
    again, same_labels = read(3)
    assert torch.equal(images, again) and torch.equal(labels, same_labels)
    assert not torch.equal(labels, read(4)[1])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [31, 32])
def test_augmentation_is_a_crop_of_the_padded_image_or_of_its_mirror_image(size, flip):
    data = noise(24, size, flip)
    margin = 4 if size >= 32 else 0
    found = set()
    for images, labels in batches(data, 8, shuffle_seed=1, augment=True):
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
        assert len(tops) > 3 and len(lefts) > 3 and max(tops | lefts) <= 8
        assert any(top != left for _, top, left in found)


def _crop(image, mirrored, top, left, margin):
    image = image.flip(2) if mirrored else image
    padded = torch.nn.functional.pad(image, (margin,) * 4)
    return padded[:, top : top + image.shape[1], left : left + image.shape[2]]


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
    (root / "empty").mkdir()
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
    image_folder(tmp_path / held_out, ["b"], count=2)
    data = load_data(str(tmp_path))
    assert (len(data.train), len(data.test)) == (6, 2)
    assert data.input_shape == (3, 224, 224)
    assert [y for _, y in data.test] == [1, 1]
    image, label = data.train[4]
    assert label == 1
    assert torch.allclose(image[:, 9, 9] * 255, torch.tensor([21.0, 0.0, 234.0]))


def test_folder_images_become_rgb_squares_from_their_centre(tmp_path):
    for part in ("train", "test"):
        image_folder(tmp_path / part, ["a", "b"], count=1, mode="L")
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


def test_real_class_folders():
    root = _real_data("caltech101_64")
    data = load_data(str(root / "caltech101_64"), image_size=16)
    total = len(data.train) + len(data.test)
    assert len(data.class_names) == 64
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
    assert data_names() == sorted(["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"])


def test_a_failed_download_says_where_files_are_looked_for(tmp_path, monkeypatch):
    asked = _fake_mnist(monkeypatch, absent=True)
    with pytest.raises(BadInput, match=r"no route to host.*--data-root or HAS8_DATA") as caught:
        load_data("mnist", tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert asked == [(tmp_path, False), (tmp_path, True)]


def test_paths_that_are_no_folder_of_images(tmp_path):
    with pytest.raises(BadInput, match="is no folder"):
        load_data(str(tmp_path / "absent"))
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is no folder"):
        load_data(str(tmp_path / "file"))
    with pytest.raises(BadInput, match="not hold enough images"):
        load_data(str(tmp_path))
    with pytest.raises(BadInput, match="at least 1 pixel"):
        load_data("digits", image_size=0)


def test_a_test_class_that_training_lacks(tmp_path):
    image_folder(tmp_path / "train", ["a", "b"], count=2)
    image_folder(tmp_path / "test", ["c"], count=2)
    with pytest.raises(BadInput, match="holds the class 'c'"):
        load_data(str(tmp_path))


def test_a_broken_image_is_named(tmp_path):
    root = image_folder(tmp_path, ["a", "b"], count=6)
    for file in (root / "b").iterdir():
        file.write_bytes(file.read_bytes()[:40])
    data = load_data(str(root), image_size=8)
    with pytest.raises(BadInput, match=r"b.00\d\.png cannot be read as an image"):
        list(batches(data.train, 4))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(3, 1, 4, 4), torch.zeros(3)),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3)),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(2)),
    ],
)
def test_arrays_of_another_layout(images, labels):
    with pytest.raises(BadInput, match=r"uint8\[N, C, H, W\]"):
        ArrayImages(images, labels)
