"""The public names of each package, sorted, importable, documented."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from has8 import errors
from has8.lazy import lazy

PACKAGES = ["has8", "mapping", "hwsim"]


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist_are_sorted_and_documented(package):
    module = importlib.import_module(package)
    assert module.__doc__
    assert list(module.__all__) == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name).__doc__, name


@pytest.mark.parametrize("package", [*PACKAGES, "has8.data"])
def test_a_stub_says_what_a_package_gives(package):
    module = importlib.import_module(package)
    stub = ast.parse(Path(module.__file__).with_suffix(".pyi").read_text())
    *_, listed = (node.value for node in stub.body if isinstance(node, ast.Assign))
    assert sorted(ast.literal_eval(listed)) == module.__all__
    assert set(module.__all__) <= set(dir(module))
    everything = {}
    exec(f"from {package} import *", everything)
    assert set(module.__all__) <= set(everything)


def test_names_that_are_not_public_are_refused():
    with pytest.raises(AttributeError, match="module 'hwsim' has no attribute 'simulat'"):
        getattr(importlib.import_module("hwsim"), "simulat")  # noqa: B009
    with pytest.raises(ImportError, match="cannot import name 'simulat'"):
        exec("from hwsim import simulat")


def test_a_package_without_its_stub_has_no_public_names(tmp_path, monkeypatch):
    """A worker is given modules alone."""
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("bare")
    get, names = lazy("bare")
    assert get("__all__") == [] and "__file__" in names()
    with pytest.raises(AttributeError):
        get("simulate")


def loaded(code):
    """The modules that a fresh process has loaded after running some code."""
    show = f"{code}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", show], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        *PACKAGES,
        "has8.errors",
        "has8.files",
        "has8.registry",
        "has8.training.recipes",
        "mapping.chip.arithmetic",
        "mapping.chip.segment",
        "mapping.hosts.schema",
        "mapping.targets.schema",
        "hwsim.names",
    ],
)
def test_importing_what_needs_no_torch_leaves_torch_out(module):
    names = loaded(f"import {module}; dir({module})")
    assert module in names
    assert not names & {"torch", "snntorch", "networkx"}
    assert "numpy" not in names or module not in PACKAGES


def test_every_error_descends_from_one_root_and_is_in_the_tree():
    kinds = [v for v in vars(errors).values() if isinstance(v, type)]
    ours = [kind for kind in kinds if issubclass(kind, Exception)]
    assert len(ours) <= 10
    for kind in ours:
        assert issubclass(kind, errors.Has8Error)
        assert kind.__name__ in errors.__doc__


def test_the_lava_worker_does_not_import_torch():
    """Torch inside a Lava process hangs."""
    code = "import hwsim, hwsim.backends.lava.backend, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
