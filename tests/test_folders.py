"""Folders as people have them: parts are parts, classes are classes, each image once."""

import hashlib
import os
import shutil
import string
from pathlib import Path

import pytest
from builders import law
from hypothesis import given
from hypothesis import strategies as st

from has8.data import load_data
from has8.data.listing import list_images
from has8.errors import BadInput

PARTS = {"train": ("train", "training"), "test": ("test", "testing", "valid", "validation", "val")}


def put(path, content=None):
    """A file with content of its own; only its name makes it an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.fsencode(path) if content is None else content)
    return path


def classes(folder, names=("cat", "dog"), *, count=5):
    for name in names:
        for number in range(count):
            put(folder / name / f"{number}.png")
    return folder


def names(part):
    return {name: [file.path.name for file in files] for name, files in part.items()}


def paths(listing):
    return [
        file.path for part in (listing.train, listing.test) for f in part.values() for file in f
    ]


# Laws


@st.composite
def cased(draw, words):
    word = draw(st.sampled_from(words))
    flips = draw(st.lists(st.booleans(), min_size=len(word), max_size=len(word)))
    return "".join(c.upper() if flip else c for c, flip in zip(word, flips, strict=True))


@law(60)
@given(
    st.lists(
        st.text(string.ascii_lowercase, min_size=3, max_size=9), min_size=2, max_size=4, unique=True
    ).filter(lambda c: not {*c} & {*PARTS["train"], *PARTS["test"]}),
    st.none() | cased(PARTS["train"]),
    st.none() | cased(PARTS["test"]),
    st.sampled_from(["", "pets", "a/b"]),
    st.booleans(),
    st.booleans(),
)
def test_every_image_is_found_once_under_its_class(
    tmp_path_factory, found, train, test, wrapper, nested, rubbish
):
    root = tmp_path_factory.mktemp("data")
    test = test if train else None
    for part in [train, test] if test else [train or ""]:
        for name in found:
            for number in range(4):
                put(root / wrapper / part / name / ("x/y" if nested else "") / f"{number}.JPG")
        if rubbish:
            for place in ("", part, Path(part, found[0])):
                put(root / wrapper / place / ".ipynb_checkpoints" / "1.png")
                put(root / wrapper / place / "__MACOSX" / found[0] / "._1.png")
                put(root / wrapper / place / "Thumbs.db")
                put(root / wrapper / place / "._1.png")
    listing = list_images(root)
    assert listing.classes == tuple(sorted(found))
    there = sorted(p for p in root.rglob("*.JPG"))
    assert sorted(paths(listing)) == there
    for part in (listing.train, listing.test):
        assert all(name in f.path.parts for name, files in part.items() for f in files)
        assert all(f.size == f.path.stat().st_size for files in part.values() for f in files)
    if test:
        assert all(test in file.path.parts for f in listing.test.values() for file in f)
    else:
        assert {len(files) for files in listing.test.values()} == {1}
    shutil.rmtree(root)


@law(60)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), min_size=10, max_size=30))
def test_no_content_is_in_both_parts_of_a_split(tmp_path_factory, images):
    """Some contents stand in a folder several times, in one class or in both."""
    root = tmp_path_factory.mktemp("data")
    for number, (name, content) in enumerate([*images, ("a", 10), ("b", 11)]):
        put(root / name / f"{number}.png", bytes([content]) * 9000)
    try:
        listing = list_images(root)
    except BadInput as error:
        assert "different" in str(error)
    else:
        train, test = (
            {file.path.read_bytes() for files in part.values() for file in files}
            for part in (listing.train, listing.test)
        )
        assert test and not train & test
        assert len(paths(listing)) == len(images) + 2
    shutil.rmtree(root)


# Examples


def test_a_train_folder_alone_is_split_as_class_folders_are(tmp_path):
    alone = list_images(classes(tmp_path / "alone" / "Train", count=10).parent)
    plain = list_images(classes(tmp_path / "plain", count=10))
    assert alone.classes == plain.classes == ("cat", "dog")
    assert names(alone.test) == names(plain.test) and names(alone.train) == names(plain.train)
    by_hash = sorted(
        (f"{n}.png" for n in range(10)), key=lambda n: hashlib.sha256(n.encode()).digest()
    )
    assert names(plain.test)["dog"] == by_hash[:2]


def test_validation_images_are_held_out_where_there_are_no_test_images(tmp_path):
    for part in ("train", "valid"):
        classes(tmp_path / part)
    assert "valid" in list_images(tmp_path).test["cat"][0].path.parts
    classes(tmp_path / "Test")
    assert "Test" in list_images(tmp_path).test["cat"][0].path.parts


def test_links_and_loops_give_each_file_once(tmp_path):
    root = classes(tmp_path / "data")
    plain = [*paths(list_images(root))]
    for number, (link, goal) in enumerate(
        [
            ("cat/loop", ".."),
            ("cat/self", "self"),
            ("cat/up", "../.."),
            ("cat/root", "/"),
            ("dog/cats", "../cat"),
            ("cat/dogs", "../dog"),
            ("dog/again.png", "0.png"),
            ("dog/same", "."),
            ("wheel", "wheel"),
        ]
    ):
        (root / link).symlink_to(goal, target_is_directory=number % 2 == 0)
    assert paths(list_images(root)) == plain
    pool = put(tmp_path / "pool" / "blob.png")
    for link in ("one", "two"):
        (root / "cat" / f"{link}.png").symlink_to(pool)
    assert len(paths(list_images(root))) == len(plain) + 1
    classes(tmp_path / "else", ["x"])
    for name in ("cat", "dog"):
        (root / name / "more").symlink_to(tmp_path / "else", target_is_directory=True)
    assert len(paths(list_images(root))) == len(plain) + 6


# Refusals


def test_a_copy_in_both_parts_is_named(tmp_path):
    for part in ("train", "test"):
        classes(tmp_path / part)
    shutil.copy(tmp_path / "train" / "cat" / "3.png", tmp_path / "test" / "dog" / "copy.png")
    with pytest.raises(BadInput, match=r"dog/copy\.png is a copy of .*train/cat/3\.png.* 1 held"):
        list_images(tmp_path)
    assert len(paths(list_images(tmp_path, distinct=False))) == 21


def _breaks(root, kind):
    """Spoil a folder with parts and classes; return what the message says."""
    cat = root / "train" / "cat"
    if kind == "empty class":
        (root / "train" / "emu").mkdir()
        return "train/emu holds no images"
    if kind == "empty held-out class":
        put(root / "test" / "emu" / "notes.txt")
        return "test/emu holds no images"
    if kind == "class twice":
        (root / "train" / "kitten").symlink_to(cat, target_is_directory=True)
        return "train/kitten holds no images of its own"
    if kind == "link to nothing":
        (cat / "gone.png").symlink_to(root / "nothing")
        return r"cat/gone\.png cannot be read"
    if kind == "pipe":
        os.mkfifo(cat / "pipe.png")
        return r"cat/pipe\.png is no ordinary file"
    if kind == "device":
        (cat / "zero.png").symlink_to("/dev/zero")
        return r"cat/zero\.png is no ordinary file"
    if kind == "other format":
        put(cat / "phone.HEIC")
        return r"cat/phone\.HEIC is of a format that has8 does not read"
    if kind == "two of a kind":
        classes(root / "Training")
        return "Training and .*train both have the name of one part"
    if kind == "no train":
        shutil.move(root / "train", root / "learn")
        return "test has the name of a part .* has no train/"
    if kind == "test without classes":
        shutil.rmtree(root / "test")
        put(root / "test" / "1.png")
        return "test holds no class folders"
    assert kind == "train without classes"
    shutil.rmtree(root / "train")
    put(root / "train" / "1.png")
    return "train has the name of a part"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "kind",
    [
        "empty class",
        "empty held-out class",
        "class twice",
        "link to nothing",
        "pipe",
        "device",
        "other format",
        "two of a kind",
        "no train",
        "test without classes",
        "train without classes",
    ],
)
def test_what_is_wrong_is_named(tmp_path, kind):
    for part in ("train", "test"):
        classes(tmp_path / part)
    message = _breaks(tmp_path, kind)
    with pytest.raises(BadInput, match=message):
        load_data(str(tmp_path))


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    root, scan = classes(tmp_path), os.scandir

    def refuse(path):
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(BadInput, match=r"dog cannot be read \(Permission denied\)"):
        load_data(str(root))
