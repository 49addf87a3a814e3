"""A floor plan for notebooks: the chips as a drawing, and a legend of their layers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from has8.markup import FAINT, PALETTE, drawing, note, rectangle, table, words
from has8.units import many, percent
from mapping.cores.floorplan import FloorPlan, PlanCell

CELL, GAP, ABREAST, MOST = 14, 3, 2, 16
"""Pixels of a core, and between routers; chips beside each other, and chips that are drawn."""
FREE = "rgba(128,128,128,.18)"


def draw_plan(plan: FloorPlan) -> str:
    """The chips and the legend as HTML; of more than 16 chips the first 16."""
    more = len(plan.chips) - MOST
    legend = table(
        ("", "layer", "cores", "neurons", "fullest core"),
        (
            (
                layer.label,
                layer.name,
                f"{layer.cores:,}",
                f"{layer.neurons:,}",
                f"{layer.resource.replace('_', ' ')} {percent(layer.share)}",
            )
            for layer in plan.layers
        ),
        left=2,
    )
    left_out = note(f"and {many(more, 'more chip')}") if more > 0 else ""
    return f"{_chips(plan)}{left_out}{legend}"


def _chips(plan: FloorPlan) -> str:
    shown = list(islice(plan.chips.items(), MOST))
    routers, slots = len(shown[0][1][0]), len(shown[0][1][0][0])
    width = routers * (slots * CELL + GAP) + 3 * CELL
    height = len(shown[0][1]) * (CELL + GAP) + 2 * CELL
    marks: list[str] = []
    for place, (number, rows) in enumerate(shown):
        down, across = divmod(place, ABREAST)
        x, y = across * width, down * height
        marks.append(words(x, y + 11, f"chip {number}", FAINT))
        for line, row in enumerate(rows):
            for at, router in enumerate(row):
                left = x + at * (slots * CELL + GAP)
                top = y + CELL + 2 + line * (CELL + GAP)
                for slot, cell in enumerate(router):
                    marks.extend(_core(plan, cell, left + slot * CELL, top))
    beside = min(ABREAST, len(shown))
    label = f"{many(len(plan.layers), 'layer')} on {many(len(plan.chips), 'chip')}"
    return drawing(width * beside, height * -(-len(shown) // ABREAST), marks, label)


def _core(plan: FloorPlan, cell: PlanCell | None, x: int, y: int) -> Iterator[str]:
    if cell is None:
        return
    if cell.layer is None:
        yield rectangle(x, y, CELL - 1, CELL, FREE, "free")
        return
    layer = plan.layers[cell.layer]
    hover = f"core {cell.core}: {layer.name}{' and others' if cell.shared else ''}"
    yield rectangle(x, y, CELL - 1, CELL, PALETTE[cell.layer % len(PALETTE)], hover)
    if len(layer.label) == 1:
        label = layer.label.lower() if cell.shared else layer.label
        yield (
            f'<text x="{x + CELL // 2}" y="{y + 11}" font-size="10" text-anchor="middle" '
            f'fill="#000" pointer-events="none">{label}</text>'
        )
