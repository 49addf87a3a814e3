"""Draw docs/hybrid_networks.svg: accuracy of mapped hybrid networks by their energy and latency.

uv run python docs/hybrid_picture.py
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "hnn_chip"
WIDTH, HEIGHT, LEFT, TOP, APART, BELOW = 300, 230, 48, 50, 62, 66
COLOURS = {"duplicate": "#0072b2", "gaussian": "#d55e00", "poisson": "#009e73"}
AXES: dict[str, Callable[[dict[str, Any]], list[float]]] = {
    "energy of an image on the board, mJ": lambda one: [x / 1000 for x in one["board_uj"]],
    "latency of an image, ms": lambda one: [x / 1000 for x in one["latency_us"]],
}


MODELS = {"hnn_mlp": "MLPs on MNIST", "hnn_cnn": "CNNs on CIFAR-10"}


def main() -> None:
    """Two panels a model; a line is the range of a figure, and a number the artificial layers."""
    parts: list[str] = []
    for row, (model, title) in enumerate(MODELS.items()):
        results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{model}*.json"))]
        accuracies = [100 * one["mapped_accuracy"] for one in results]
        ends = (math.floor(min(accuracies)) - 1, math.ceil(max(accuracies)) + 1)
        top = TOP + row * (HEIGHT + BELOW)
        parts.append(f'<text x="{LEFT}" y="{top - 6}" font-weight="bold">{title}</text>')
        for number, (axis, values) in enumerate(AXES.items()):
            at = (LEFT + number * (WIDTH + APART), top)
            parts.extend(_panel(at, axis, values, results, ends))
    legend = [
        _mark(LEFT + 8 + 90 * n, 14, colour, square=False)
        + f'<text x="{LEFT + 20 + 90 * n}" y="18">{name}</text>'
        for n, (name, colour) in enumerate(COLOURS.items())
    ]
    end = LEFT + 90 * len(COLOURS)
    legend.append(f'<text x="{end}" y="18">circles: Loihi, squares: Loihi 2, graded spikes</text>')
    height = TOP + len(MODELS) * (HEIGHT + BELOW)
    size = f'width="{LEFT + 2 * WIDTH + APART + 36}" height="{height}"'
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        *legend,
        *parts,
        "</svg>",
    ]
    (ROOT / "docs" / "hybrid_networks.svg").write_text("\n".join(svg) + "\n")


def _panel(
    at: tuple[int, int],
    title: str,
    values: Callable[[dict[str, Any]], list[float]],
    results: list[dict[str, Any]],
    accuracies: tuple[int, int],
) -> Iterator[str]:
    left, top = at
    ends = [math.log10(end) for one in results for end in values(one)]
    first, last = math.floor(min(ends)), math.ceil(max(ends))
    low, high = accuracies

    def across(value: float) -> float:
        return left + WIDTH * (math.log10(value) - first) / (last - first)

    def up(percent: float) -> float:
        return top + HEIGHT * (high - percent) / (high - low)

    frame = f'x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}"'
    yield f'<rect {frame} fill="none" stroke="#888"/>'
    for power in range(first, last + 1):
        yield f'<text x="{across(10.0**power):.1f}" y="{top + HEIGHT + 16}" text-anchor="middle">'
        yield f"{10.0**power:g}</text>"
    for percent in range(low, high + 1, max(2, (high - low) // 6)):
        yield f'<text x="{left - 6}" y="{up(percent) + 4:.1f}" text-anchor="end">{percent} %</text>'
    below = f'x="{left + WIDTH / 2}" y="{top + HEIGHT + 36}"'
    yield f'<text {below} text-anchor="middle">{title}</text>'
    for one in results:
        value, least, most = values(one)
        y, colour = up(100 * one["mapped_accuracy"]), COLOURS[one["coding"]]
        yield f'<line x1="{across(least):.1f}" x2="{across(most):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
        yield f' stroke="{colour}" stroke-opacity="0.4" stroke-width="2"/>'
        x = across(value)
        yield _mark(x, y, colour, square=one.get("target") == "loihi2")
        yield f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" fill="white">'
        yield f"{one['split']}</text>"


def _mark(x: float, y: float, colour: str, *, square: bool) -> str:
    """A circle for a Loihi, a square for a Loihi 2."""
    if square:
        side = f'x="{x - 6:.1f}" y="{y - 6:.1f}" width="12" height="12"'
        return f'<rect {side} fill="{colour}"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" fill="{colour}"/>'


if __name__ == "__main__":
    main()
