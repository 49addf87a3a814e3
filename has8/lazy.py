"""Packages that import their public names when these are first used (PEP 562).

The ``__init__.pyi`` beside a package's ``__init__.py`` lists the names, once for type checkers,
editors and this module. It is read when the first name is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: its ``__name__``. Each ``from .module import name as name`` in its
            ``__init__.pyi`` makes a public name; without that file there are none.
    """
    module = sys.modules[package]

    @cache
    def homes() -> dict[str, tuple[str, str]]:
        """The module of each public name, and its name there."""
        import ast  # takes as long as the rest of this package

        stub = Path(str(module.__file__)).with_suffix(".pyi")
        tree = ast.parse(stub.read_text(encoding="utf-8") if stub.exists() else "")
        imports = (node for node in tree.body if isinstance(node, ast.ImportFrom))
        return {
            alias.asname or alias.name: (f"{package}.{node.module}", alias.name)
            for node in imports
            for alias in node.names
        }

    def get(name: str) -> Any:
        if name == "__all__":
            return sorted(homes())
        if name not in homes():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, original = homes()[name]
        value = getattr(import_module(home), original)
        setattr(module, name, value)
        return value

    return get, lambda: sorted({*vars(module), *homes()})
