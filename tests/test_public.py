"""The public names of each package, sorted, importable, documented."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from has8 import errors
from hwsim.backends.lava.backend import Lava


@pytest.mark.parametrize("package", ["has8", "mapping", "hwsim"])
def test_public_names_exist_are_sorted_and_documented(package):
    module = importlib.import_module(package)
    assert module.__doc__
    assert list(module.__all__) == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name).__doc__, name


def test_every_error_descends_from_one_root_and_is_in_the_tree():
    kinds = [v for v in vars(errors).values() if isinstance(v, type)]
    ours = [kind for kind in kinds if issubclass(kind, Exception)]
    assert len(ours) <= 10
    for kind in ours:
        assert issubclass(kind, errors.Has8Error)
        assert kind.__name__ in errors.__doc__


def test_the_snippet_of_readme_runs(tmp_path, monkeypatch, capsys):
    root = Path(__file__).parent.parent
    snippet = (root / "README.md").read_text().split("```python\n")[1].split("```")[0]
    if Lava().unavailable() is not None:
        snippet = snippet.replace('"lava"', '"reference"')
    snippet = snippet.replace("examples/models", str(root / "examples" / "models"))
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    assert "Energy(" in capsys.readouterr().out
    assert (tmp_path / "digits.h8").exists()


def test_the_lava_worker_does_not_import_torch():
    """Torch inside a Lava process hangs."""
    code = "import hwsim, hwsim.backends.lava.backend, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
