"""What a number was measured on, and where it is printed."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich.console import Console

ROOT = Path(__file__).parent.parent
WIDTH = 150
"""Columns that the widest table needs."""
PACKAGES = ("has8", "torch", "snntorch", "spikingjelly", "numpy")


def hardware(device: str = "cpu") -> str:
    """The processor's name and its number of cores, or the GPU's name."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def versions() -> dict[str, str | None]:
    """Of Python and of the packages that matter; None for what is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit(root: Path = ROOT) -> str | None:
    """The checkout's commit, with "-dirty" where files differ from it; None outside of one.

    Results of other runs do not count as a difference.
    """
    found = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", ".", ":!benchmarks/results")
    if not found:
        return None
    return found + ("-dirty" if changes else "")


def _git(root: Path, *arguments: str) -> str:
    """What git prints; nothing where it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def wide_console() -> Console:
    """Prints tables whole, which a narrow terminal wraps, rather than cut numbers off."""
    console = Console()
    console.width = max(console.width, WIDTH)
    return console
