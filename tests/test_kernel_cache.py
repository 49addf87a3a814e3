"""Compiled kernels in a cache are code: what is not known to be has8's own is never executed."""

import contextlib
import ctypes
import errno
import fcntl
import os
import pwd
import random
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import traceback
import warnings
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from builders import memory_below

from has8.kernels import build, libraries

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")

FUNCTIONS = {"scaled": "nnp"}
SOURCE = "void scaled(long threads, long n, double *x) { while (n--) *x++ *= 2; }"
EVIL = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void start(void) { fclose(fopen(getenv("MARKER"), "w")); }
void scaled(long threads, long n, double *x) { *x = 666; }
"""
KILLER = """
#include <stdlib.h>
__attribute__((constructor)) static void start(void) { abort(); }
void scaled(long threads, long n, double *x) { }
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder for compiled libraries."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("HAS8_CACHE", str(folder))
    monkeypatch.delenv("HAS8_KERNELS", raising=False)
    monkeypatch.delenv("CC", raising=False)
    return folder


@pytest.fixture
def source(tmp_path):
    """A kernel that doubles numbers."""
    path = tmp_path / "scaled.c"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A library with the same functions that leaves a mark where it is executed."""
    marker = tmp_path / "executed"
    monkeypatch.setenv("MARKER", str(marker))
    yield library_of(EVIL, tmp_path)
    assert not marker.exists(), "another's library was executed"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Make a shell script the compiler; in it $out is the file that is asked for."""

    def install(script):
        path = tmp_path / "fake-cc"
        head = 'for word; do [ "$before" = -o ] && out=$word; before=$word; done\n'
        path.write_text(f"#!/bin/sh\n{head}{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))
        return path

    return install


def library_of(text, folder):
    """The bytes of a library made of C."""
    (folder / "other.c").write_text(text)
    command = ["cc", "-shared", "-fPIC", "other.c", "-o", "other.so"]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "other.so").read_bytes()


def load(source):
    return build.load([source], FUNCTIONS)


def scaled(library):
    """What the kernel makes of 1; by its source 2."""
    x = torch.ones(3, dtype=torch.float64)
    build.call(library, "scaled", 3, x)
    return x[0].item()


def warned(source, match):
    """What is loaded after one warning."""
    with pytest.warns(RuntimeWarning, match=match) as said:
        library = load(source)
    assert len(said) == 1
    return library


def does_without(source):
    """Whether has8 goes on without kernels, and says so."""
    return warned(source, "cannot be compiled") is None


def kept(cache):
    """The one library in the cache."""
    (path,) = cache.rglob("*.so")
    return path


def sealed(path, library):
    """A library as it lies in the cache; anybody can know this, so that it proves nothing."""
    return library + sha256(path.name.encode() + b"\0" + library).digest()


@contextlib.contextmanager
def forked(work):
    """A process of its own that works and then ends with 0, as far as it lives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside pytest's threads
        number = os.fork()
    if number == 0:
        status = 1
        try:
            work()
            status = 0
        except KeyboardInterrupt:
            status = 130
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    yield number


def ended(work, meanwhile=lambda number: None):
    """With what code a process of its own ends; negative for a signal."""
    with forked(work) as number:
        meanwhile(number)
        return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def survives(work):
    """Whether a process of its own ends well, not by a signal."""
    return ended(work) == 0


def kept_by_a_process(source, cache):
    """The library that another process has left in the cache."""
    assert survives(lambda: load(source))
    return kept(cache)


# A library that is damaged


def damaged(whole, chance):
    """What can become of a file: it is cut, changed, mixed up, replaced or emptied."""
    content = bytearray(whole)
    content[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    yield from (whole[: chance.randrange(len(whole))], whole[: len(whole) // 2], whole[:4096])
    yield from (bytes(content), whole[:64] + chance.randbytes(len(whole) - 64), b"text", b"")


def test_whatever_bytes_stand_for_a_library_results_are_right_and_the_process_lives(
    cache, source, fake
):
    compiler, chance = fake('exec cc "$@"'), random.Random(0)
    path = kept_by_a_process(source, cache)
    whole = path.read_bytes()

    def work():
        for content in damaged(whole, chance):
            path.write_bytes(content)
            assert scaled(load(source)) == 2
            assert path.read_bytes() == whole
        compiler.unlink()
        for content in (content for _ in range(5) for content in damaged(whole, chance)):
            path.write_bytes(content)
            assert does_without(source)

    assert survives(work)


def test_a_library_that_is_damaged_while_it_is_used_goes_on(cache, source):
    kept_by_a_process(source, cache)

    def work():
        library = load(source)
        os.truncate(kept(cache), 0)
        assert scaled(library) == 2

    assert survives(work)


def test_a_library_under_the_name_of_another_is_not_taken_for_it(cache, source):
    first = kept_by_a_process(source, cache).read_bytes()
    kept(cache).unlink()
    source.write_text(SOURCE.replace("2", "3"))
    kept_by_a_process(source, cache).write_bytes(first)
    assert scaled(load(source)) == 3


def test_a_library_that_does_not_load_is_made_anew(cache, source, tmp_path):
    path = kept_by_a_process(source, cache)
    whole = path.read_bytes()
    for content in (b"text", library_of("void other(void) { }", tmp_path)):
        path.write_bytes(sealed(path, content))
        assert scaled(load(source)) == 2
        assert kept(cache).read_bytes() == whole


def test_a_file_that_is_too_large_is_not_read(cache, source):
    os.truncate(kept_by_a_process(source, cache), 2**28)
    with memory_below(2e6):
        assert scaled(load(source)) == 2


# A library that somebody else has put there


def open_to_all(path):
    path.parent.chmod(0o777)


def readable_by_all(path):
    path.parent.chmod(0o755)


def writable_by_all(path):
    path.chmod(0o666)


def linked_folder(path):
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.symlink_to(path.parent.with_name("elsewhere"))


def linked_file(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def of_another_user(path):
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, 12345)


def in_the_folder_of_another_user(path):
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(path.parent, 12345, 12345)


@pytest.mark.parametrize(
    "planted",
    [
        open_to_all,
        readable_by_all,
        writable_by_all,
        linked_folder,
        linked_file,
        of_another_user,
        in_the_folder_of_another_user,
    ],
)
@pytest.mark.filterwarnings("ignore:has8's kernels cannot be kept")
def test_what_another_may_have_written_is_not_executed(planted, cache, source, evil):
    path = kept_by_a_process(source, cache)
    path.write_bytes(sealed(path, evil))
    planted(path)
    assert scaled(load(source)) == 2


def test_what_does_not_belong_to_this_user_is_not_executed(cache, source, evil, monkeypatch):
    path, another = kept_by_a_process(source, cache), os.geteuid() + 1
    path.write_bytes(sealed(path, evil))
    monkeypatch.setattr(os, "geteuid", lambda: another)
    monkeypatch.setattr(os, "getuid", lambda: another)
    assert does_without(source), "nor does what the compiler makes belong to this user"


def test_what_was_checked_is_what_is_loaded(cache, source, evil, monkeypatch):
    """Somebody writes between the check and the loading."""
    path, loaded = kept_by_a_process(source, cache), ctypes.CDLL

    def late(*arguments, **options):
        path.write_bytes(sealed(path, evil))
        return loaded(*arguments, **options)

    monkeypatch.setattr(ctypes, "CDLL", late)
    assert scaled(load(source)) == 2


def test_folder_and_library_are_closed_to_others_whatever_the_umask(cache, source):
    before = os.umask(0)
    try:
        load(source)
    finally:
        os.umask(before)
    path = kept(cache)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_temporary_folder_where_others_exchange_files_is_not_used(
    cache, source, tmp_path, monkeypatch
):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    assert does_without(source)
    shared.chmod(0o1777)
    assert scaled(load(source)) == 2
    assert list(shared.iterdir()) == []


# What the cache promises where all is well


def test_a_library_is_compiled_once_for_each_source_and_command(
    cache, source, fake, tmp_path, monkeypatch
):
    calls = tmp_path / "calls"
    compiler = fake(f'echo >> {calls}; exec cc "$@"')
    assert scaled(load(source)) == 2
    once, made = len(calls.read_text()), kept(cache).stat().st_mtime_ns
    assert scaled(load(source)) == 2
    assert len(calls.read_text()) == once
    assert kept(cache).stat().st_mtime_ns == made
    source.write_text(SOURCE.replace("2", "3"))
    assert scaled(load(source)) == 3
    monkeypatch.setenv("CC", f"{compiler} -DANOTHER")
    assert scaled(load(source)) == 3
    assert len(calls.read_text()) == 3 * once
    assert len(list(cache.rglob("*.so"))) == 3


def test_libraries_are_kept_apart_however_they_are_loaded(cache, source, monkeypatch):
    three = source.with_name("three.c")
    three.write_text(SOURCE.replace("2", "3"))
    for _ in range(2):
        assert [scaled(library) for library in (load(source), load(three))] == [2, 3]
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert [scaled(library) for library in (load(source), load(three))] == [2, 3]


def test_several_processes_at_once_make_one_library(cache, source):
    def work():
        assert scaled(load(source)) == 2

    with contextlib.ExitStack() as processes:
        numbers = [processes.enter_context(forked(work)) for _ in range(6)]
        assert [os.waitpid(number, 0)[1] for number in numbers] == [0] * 6
    assert list(kept(cache).parent.iterdir()) == [kept(cache)]


# A cache that cannot be used


def test_an_empty_setting_is_none(cache, source, tmp_path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HAS8_CACHE", "")
    monkeypatch.setenv("CC", "")
    assert scaled(load(source)) == 2
    assert list(here.iterdir()) == []
    assert kept(home).is_relative_to(home / ".cache" / "has8")


@pytest.mark.parametrize("setting", [".", "cache", "../here"])
def test_a_relative_cache_lies_where_it_is_named(setting, cache, source, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HAS8_CACHE", setting)
    for _ in range(2):
        assert scaled(load(source)) == 2
    assert kept(tmp_path / "here").is_relative_to((tmp_path / "here" / setting).resolve())


def test_a_user_without_a_home_has_kernels_for_the_moment(cache, source, monkeypatch):
    def nobody(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("HAS8_CACHE")
    assert scaled(warned(source, "cannot be kept")) == 2
    monkeypatch.setenv("CC", "no-such-compiler")
    assert does_without(source)


@pytest.mark.parametrize("cache_is", ["a file", "in a file", "nowhere", "gone", "another's"])
def test_a_cache_that_cannot_be_used_is_no_error(cache_is, cache, source, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    settings = {"a file": tmp_path / "file", "in a file": tmp_path / "file" / "cache"}
    monkeypatch.setenv("HAS8_CACHE", str(settings.get(cache_is, cache)))
    if cache_is == "nowhere":
        monkeypatch.setenv("HAS8_CACHE", "/proc/none")
    elif cache_is == "gone":
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        monkeypatch.setenv("HAS8_CACHE", "relative")
        (tmp_path / "gone").rmdir()
    elif cache_is == "another's":
        (cache / "kernels").touch()
    assert scaled(warned(source, "cannot be kept")) == 2


def test_a_disk_that_is_full_keeps_no_part_of_a_library(cache, source, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert scaled(warned(source, "No space left")) == 2
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_drafts_of_killed_processes_are_swept_and_those_of_the_living_are_not(cache):
    def killed(descriptor):
        os.kill(os.getpid(), signal.SIGKILL)

    def killed_while_it_keeps_one():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", killed)
            libraries.keep("one", b"library")

    assert ended(killed_while_it_keeps_one) == -signal.SIGKILL
    folder = cache / "kernels"
    (draft,) = folder.iterdir()
    with draft.open("rb") as living:  # held, as by the process that writes it
        fcntl.flock(living, fcntl.LOCK_EX)
        libraries.keep("another", b"library")
        assert draft.exists()
    libraries.keep("another", b"library")
    assert [path.name for path in folder.iterdir()] == ["another"]


# A compiler that is none


@pytest.mark.parametrize(
    "setting",
    ["cc '", 'cc "', "cc \\", "''", " ", "no-such", "/", "/dev/null", "\udcff", "cc -\udcff"],
)
def test_a_setting_that_is_no_command_is_no_compiler(setting, cache, source, monkeypatch):
    monkeypatch.setenv("CC", setting)
    assert does_without(source)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    "made",
    [
        "",
        "exit 1",
        "kill -9 $$",
        ': > "$out"',
        'echo text > "$out"',
        'mkdir "$out"',
        'mkfifo "$out"',
        'truncate -s 100M "$out"',
        'ln -s "$EVIL" "$out"',
        'cat "$EVIL" > "$out"; exit 1',
        'echo "void other(void) { }" | cc -shared -x c - -o "$out"',
        'echo "int main(void) { return 0; }" | cc -x c - -o "$out"',
        'cat "$KILLER" > "$out"',
        'cc "$@"; head -c 4096 "$out" > "$out".part; mv "$out".part "$out"',
        'cc "$@"; head -c 9000 "$out" > "$out".part; mv "$out".part "$out"',
    ],
)
def test_what_is_no_library_is_no_compiler(made, cache, source, fake, evil, tmp_path, monkeypatch):
    for name, library in {"EVIL": evil, "KILLER": library_of(KILLER, tmp_path)}.items():
        (tmp_path / name).write_bytes(library)
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(build, "_VARIANTS", ((),))
    fake(made)
    assert does_without(source)
    assert list(cache.iterdir()) == []


def test_a_command_of_several_words_compiles_and_links(cache, source, monkeypatch):
    monkeypatch.setenv("CC", "env LANG=C cc '-DWORDS=a b'")
    assert scaled(load(source)) == 2


def test_a_compiler_does_not_read_what_the_user_types(cache, source, fake):
    fake('cat; exec cc "$@"')
    reading, writing = os.pipe()
    os.write(writing, b"typed")

    def work():
        os.dup2(reading, 0)
        assert scaled(load(source)) == 2
        assert os.read(0, 100) == b"typed"

    assert survives(work)
    os.close(reading)
    os.close(writing)


def test_the_output_of_a_compiler_takes_no_memory(cache, source, fake):
    fake('head -c 50000000 /dev/zero; head -c 50000000 /dev/zero >&2; exec cc "$@"')
    with memory_below(2e6):
        assert scaled(load(source)) == 2


def test_a_compiler_cannot_fill_the_disk(cache, source, fake, monkeypatch):
    monkeypatch.setattr(build, "_VARIANTS", ((),))
    fake('head -c 100000000 /dev/zero > "$out" && exec cc "$@"')  # succeeds without a limit
    assert does_without(source)


def gone(path, patience=30.0):
    """Whether the process whose number lies in the file ends."""
    number, end = int(path.read_text()), time.monotonic() + patience
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("habit", ["sleep 60", "sleep 0.3; exit 1", "yes"])
def test_all_tries_together_have_one_deadline(habit, cache, source, fake, tmp_path, monkeypatch):
    monkeypatch.setattr("has8.kernels.compiler.SECONDS", 0.5)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    fake(f"echo >> {tmp_path}/tries; sleep 60 & echo $! > {tmp_path}/child; {habit}")
    start = time.monotonic()
    assert does_without(source)
    assert time.monotonic() - start < 30, "it waited for what takes a minute"
    assert len((tmp_path / "tries").read_text()) <= 2, "it went on when the time was over"
    assert gone(tmp_path / "child")
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("how, code", [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_ctrl_c_ends_the_compiler_and_what_it_has_started(
    how, code, cache, source, fake, tmp_path, monkeypatch
):
    child, scratch = tmp_path / "child", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    fake(f"sleep 60 & echo $! > {child}; sleep 60")

    def work():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        load(source)

    def interrupt(number):
        while not child.exists() or not child.read_text():
            time.sleep(0.001)
        os.kill(number, how)

    assert ended(work, interrupt) == code
    assert gone(child)
    assert list(scratch.iterdir()) == []


def test_a_signal_that_is_ignored_ends_no_compiler(cache, source, fake):
    fake(f'kill -INT {os.getpid()}; exec cc "$@"')
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert scaled(load(source)) == 2
    finally:
        signal.signal(signal.SIGINT, before)
