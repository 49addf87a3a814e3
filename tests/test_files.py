"""Files appear whole, folders have one writer, and what has8 did not write stays."""

import errno
import os
import resource
import stat
import warnings
from pathlib import Path

import pytest
import torch
from test_train import CONFIG, DATA, Break, break_at, fit, small

from has8.cli.jobs.train import _check_apart
from has8.data import load_data
from has8.data.digest import digest
from has8.errors import BadInput, Has8Error
from has8.files import held, write_whole


def put(path, content=b"new"):
    write_whole(path, lambda file: file.write(content))


def test_a_planted_link_at_the_name_of_a_draft_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / f".a.{os.getpid()}.tmp").symlink_to(tmp_path / "victim")
    put(tmp_path / "a")
    assert not (tmp_path / "victim").exists() and (tmp_path / "a").read_bytes() == b"new"
    monkeypatch.setattr("has8.files.token_hex", lambda length: "0" * 2 * length)  # known in advance
    (tmp_path / f".has8-{'0' * 16}.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(BadInput, match="cannot write"):
        put(tmp_path / "b")
    assert not (tmp_path / "victim").exists() and not (tmp_path / "b").exists()


def test_names_of_255_bytes_links_and_permissions(tmp_path):
    put(tmp_path / ("n" * 255))
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    put(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640
    (tmp_path / "opened").touch()
    put(tmp_path / "fresh")
    assert (tmp_path / "fresh").stat().st_mode == (tmp_path / "opened").stat().st_mode


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="no ordinary file"):
        put(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_drafts_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path):
    dead = tmp_path / f".has8-{'0' * 16}.tmp"
    dead.touch()

    def write(file):
        (mine,) = tmp_path.glob(".has8-*.tmp")
        put(tmp_path / "other")
        assert mine.exists()
        file.write(b"whole")

    write_whole(tmp_path / "a", write)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "other"]


def test_a_full_disk_is_one_sentence_for_torch_too(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(BadInput, match="cannot write"):
            write_whole(tmp_path / "a", lambda file: torch.save(torch.zeros(10**6), file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_one_run_at_a_time_in_a_folder(tmp_path):
    def second(now):
        fit(small(), DATA, CONFIG, out=tmp_path)

    with pytest.raises(BadInput, match="another process is at work"):
        fit(small(), DATA, CONFIG, out=tmp_path, on_progress=second)
    with held(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF])
def test_a_folder_that_cannot_be_locked_is_written_to_with_one_warning(code, tmp_path, monkeypatch):
    def none(handle, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", none)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")  # as Python shows them
        for _ in range(2):
            with held(tmp_path):
                put(tmp_path / "a")
    (warning,) = said
    assert str(warning.message).startswith(f"{tmp_path} cannot be locked ({os.strerror(code)}): ")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("name", ["last.pt", "best.pt", "model.pt", "metrics.csv"])
def test_what_no_training_wrote_is_not_touched(tmp_path, name, resume):
    (tmp_path / name).write_bytes(b"somebody's")
    with pytest.raises(Has8Error, match=name):
        fit(small(), DATA, CONFIG, out=tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"somebody's"


def test_another_runs_model_is_replaced_only_when_asked(tmp_path):
    one = CONFIG.__class__(**{**{f: getattr(CONFIG, f) for f in CONFIG.__slots__}, "epochs": 1})
    fit(small(), DATA, one, out=tmp_path)
    (tmp_path / "last.pt").unlink()
    (tmp_path / "best.pt").unlink()
    with pytest.raises(BadInput, match=r"model\.pt belongs to another run .*epochs is 1 there"):
        fit(small(), DATA, CONFIG, out=tmp_path)
    with pytest.raises(Break):
        fit(small(), DATA, CONFIG, out=tmp_path, resume=False, on_progress=break_at(1, 16))


def test_a_run_does_not_write_over_the_model_that_it_starts_from(tmp_path):
    start = tmp_path / "model.pt"
    start.touch()
    with pytest.raises(BadInput, match="choose another folder with --out"):
        _check_apart(start, Path(os.path.relpath(tmp_path)))


def photos(root, names=("ant", "bee"), seed=0):
    from PIL import Image

    generator = torch.Generator().manual_seed(seed)
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(5):
            pixels = torch.randint(0, 256, (8, 8, 3), generator=generator).to(torch.uint8).numpy()
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return digest(load_data(str(root), image_size=8))


def test_data_are_the_same_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("HAS8_CACHE", str(tmp_path / "cache"))
    here = photos(tmp_path / "here" / "photos")
    assert photos(tmp_path / "there" / "photos") == here
    assert photos(tmp_path / "other" / "photos", seed=1) != here
    assert photos(tmp_path / "renamed" / "photos", ("ant", "wasp")) != here


def test_a_digest_is_kept_until_a_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("HAS8_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("has8.data.digest.SETTLED_NS", -(10**12))
    first, root = photos(tmp_path / "photos"), tmp_path / "photos"
    monkeypatch.setattr("has8.data.digest._content", None)
    assert digest(load_data(str(root), image_size=8)) == first
    monkeypatch.undo()
    monkeypatch.setenv("HAS8_CACHE", str(tmp_path / "cache"))
    (root / "ant" / "0.png").write_bytes((root / "bee" / "0.png").read_bytes())
    assert digest(load_data(str(root), image_size=8)) != first


@pytest.mark.parametrize("change", ["images", "labels", "names"])
def test_another_data_set_is_another_run(tmp_path, change):
    from dataclasses import replace

    from has8.data import ArrayImages

    with pytest.raises(Break):
        fit(small(), DATA, CONFIG, out=tmp_path, on_progress=break_at(2, 16))
    images, labels = DATA.train.images.clone(), DATA.train.labels.clone()
    names = DATA.class_names
    if change == "images":
        images[5, 0, 0, 0] ^= 1
    elif change == "labels":
        labels[5] = 1 - labels[5]
    else:
        names = ("across", "up")
    other = replace(DATA, train=ArrayImages(images, labels, flip=True), class_names=names)
    with pytest.raises(BadInput, match="belongs to another run"):
        fit(small(), other, CONFIG, out=tmp_path)
