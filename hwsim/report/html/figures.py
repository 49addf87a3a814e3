"""Small pictures as SVG that need no script: a model between host and chip, and its chips.

They stand in the HTML report and can be shown in notebooks. Colours are Okabe and Ito's, which
people with any colour vision tell apart; a page may set the CSS variables ``--host``, ``--chip``,
``--ink``, ``--quiet`` and ``--free`` to fit its theme.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from markupsafe import Markup, escape

from has8.markup import PALETTE
from hwsim.price.cost import CostReport
from hwsim.report import units
from hwsim.report.html.chips import ChipView, CoreView, Traffic
from mapping.graph.ir import Kind
from mapping.graph.ops import OPS
from mapping.mapped import Mapped
from mapping.partition.segments import Side

INK, QUIET, FREE = "var(--ink,#1b1f24)", "var(--quiet,#8a929b)", "var(--free,#e7eaee)"
SIDES: dict[Side, str] = {"host": "var(--host,#0072B2)", "chip": "var(--chip,#D55E00)"}
FONT = "font-family='system-ui,sans-serif' font-size='12'"

BOX, GAP, MARGIN = 158, 74, 26
"""Pixels: width of a box, between the lanes, and beside them."""
CELL, SPACE, FRAME = 18, 16, 14
"""Pixels: a core, between routers, and around a chip."""


@dataclass(frozen=True, slots=True)
class Box:
    """What runs somewhere.

    Args:
        name: shown in bold.
        facts: lines below it.
        side: where it runs.
    """

    name: str
    facts: tuple[str, ...]
    side: Side


@dataclass(frozen=True, slots=True)
class Arrow:
    """What flows between two boxes, given by their places.

    Args:
        start: where from.
        end: where to.
        label: a few words, drawn where the arrow crosses between host and chip.
        about: a sentence that a pointer brings up.
    """

    start: int
    end: int
    label: str
    about: str


def layer_colour(number: int) -> str:
    """The colour of a chip's layer by its place; after the palette's end it begins again."""
    return PALETTE[number % len(PALETTE)]


def ink_on(number: int) -> str:
    """What is read on a layer's colour; on Okabe and Ito's blue that is white."""
    return "#fff" if layer_colour(number) == "#0072B2" else "#000"


def segments_svg(mapped: Mapped, cost: CostReport | None = None) -> Markup:
    """The segments of a model in two lanes, host and chip, in the order of execution.

    Args:
        mapped: the mapping.
        cost: of a run of it; with it boxes have their times, and arrows their messages.
    """
    times = {} if cost is None else {s.name: s.work_us for s in cost.price.latency.segments}
    cores = {segment: set[int]() for segment in (s.name for s in mapped.partition.segments)}
    for tile in mapped.placement.tiles:
        cores[tile.segment].add(tile.core)
    boxes = [Box("input", (_shape(mapped, mapped.graph.input.name),), "host")]
    for segment in mapped.partition.segments:
        layers = sum(OPS[mapped.graph[name].op].role == "synapse" for name in segment.nodes)
        held = [units.many(layers, "layer")]
        if cores[segment.name]:
            held.append(units.many(len(cores[segment.name]), "core"))
        work = times.get(segment.name)
        facts = (", ".join(held), *(() if work is None else (units.time(work),)))
        boxes.append(Box(segment.name, facts, segment.side))
    at = {name: n for n, s in enumerate(mapped.partition.segments, 1) for name in s.nodes}
    at[mapped.graph.input.name] = 0
    return _lanes(boxes, list(_arrows(mapped, cost, at)), "The model's segments on host and chip")


def layers_svg(mapped: Mapped, cost: CostReport | None = None) -> Markup:
    """Each node of a model in two lanes, host and chip, in the order of execution.

    Args:
        mapped: the mapping.
        cost: of a run of it; with it arrows have their messages.
    """
    chip = {name for segment in mapped.partition.on_chip for name in segment.nodes}
    nodes = list(mapped.graph)

    def side(name: str) -> Side:
        return "chip" if name in chip else "host"

    boxes = [
        Box(node.name, (node.op, _shape(mapped, node.name)), side(node.name)) for node in nodes
    ]
    at = {node.name: place for place, node in enumerate(nodes)}
    return _lanes(boxes, list(_arrows(mapped, cost, at)), "The model's layers on host and chip")


def _shape(mapped: Mapped, name: str) -> str:
    return str(mapped.graph[name].type).replace(" steps of ", " × ")


def _arrows(mapped: Mapped, cost: CostReport | None, at: dict[str, int]) -> Iterator[Arrow]:
    """What flows between boxes; several tensors between the same two are one arrow."""
    found: dict[tuple[int, int], dict[str, None]] = {}
    for node in mapped.graph:
        for name in node.inputs:
            if at[name] != at[node.name]:
                found.setdefault((at[name], at[node.name]), {})[name] = None
    sent: dict[str, float] = {}
    fired: dict[str, float] = {}
    if cost is not None:
        for boundary in cost.boundaries:
            sent[boundary.node] = sent.get(boundary.node, 0) + boundary.messages / cost.samples
        events = cost.work.activity.events
        fired = {name: float(counts.sum()) / cost.samples for name, counts in events.items()}
    for (start, end), names in found.items():
        messages = sum(sent.get(name, 0) for name in names)
        label = f"{units.count(messages)} msg" if messages else ""
        about = [f"{name}: {_shape(mapped, name)}" + _events(mapped, fired, name) for name in names]
        more = f"; {units.count(messages)} messages a sample" if messages else ""
        yield Arrow(start, end, label, "; ".join(about) + more)


def _events(mapped: Mapped, fired: dict[str, float], name: str) -> str:
    if name not in fired:
        return ""
    what = "spikes" if mapped.graph[name].type.kind is Kind.SPIKE else "values that are not zero"
    return f", {units.count(fired[name])} {what} a sample"


def _lanes(boxes: Sequence[Box], arrows: Sequence[Arrow], title: str) -> Markup:
    """Boxes one below the other, each in its lane, and the arrows between them."""
    high = 26 + 15 * max(len(box.facts) for box in boxes)
    pitch, top = high + 22, 34
    width, height = 2 * (MARGIN + BOX) + GAP, top + pitch * len(boxes)
    left: dict[Side, int] = {"host": MARGIN, "chip": MARGIN + BOX + GAP}
    parts = [
        Markup(
            f"<svg class='lanes' role='img' viewBox='0 0 {width} {height}' {FONT} fill='{INK}' "
            f"style='width:100%;max-width:{1.15 * width:.0f}px'><title>{title}</title>"
        )
    ]
    for side, x in left.items():
        parts.append(
            Markup(
                f"<text x='{x + BOX / 2}' y='18' text-anchor='middle' font-weight='600' "
                f"style='fill:{SIDES[side]}'>{side}</text>"
            )
        )
    for arrow in arrows:
        parts += _arrow(arrow, boxes, left, (top, pitch, high))
    for place, box in enumerate(boxes):
        parts.append(_box(box, left[box.side], top + pitch * place, high))
    return Markup("").join([*parts, Markup("</svg>")])


def _arrow(
    arrow: Arrow, boxes: Sequence[Box], left: dict[Side, int], rows: tuple[int, int, int]
) -> Iterator[Markup]:
    top, pitch, high = rows
    one, other = boxes[arrow.start].side, boxes[arrow.end].side
    y, to = top + pitch * arrow.start + high / 2, top + pitch * arrow.end + high / 2
    style = f"fill:none;stroke:{QUIET};stroke-width:1.5"
    if one != other:
        x, x_to = (
            (left[one] + BOX, left[other]) if one == "host" else (left[one], left[other] + BOX)
        )
        bend = (x_to - x) / 2
        path = f"M{x},{y} C{x + bend},{y} {x_to - bend},{to} {x_to},{to}"
        style = f"fill:none;stroke:{SIDES[one]};stroke-width:2"
    elif abs(arrow.end - arrow.start) == 1:
        middle = left[one] + BOX / 2
        path = f"M{middle},{y + high / 2} L{middle},{to - high / 2}"
    else:  # past what lies between, on the outer side
        out = -1 if one == "host" else 1
        x = left[one] + (BOX if out == 1 else 0)
        far = x + out * min(MARGIN - 4, 10 + 4 * abs(arrow.end - arrow.start))
        path = f"M{x},{y} C{far},{y} {far},{to} {x},{to}"
    yield Markup("<g class='arrow'><path d='{}' style='{}'/><title>{}</title>").format(
        path, style, arrow.about
    )
    if one != other and arrow.label:
        middle = left["host"] + BOX + GAP / 2
        yield Markup(
            "<text x='{}' y='{}' text-anchor='middle' font-size='11' class='halo' "
            "style='fill:{}'>{}</text>"
        ).format(middle, (y + to) / 2 + 4, INK, arrow.label)
    yield Markup("</g>")


def _box(box: Box, x: int, y: int, high: int) -> Markup:
    colour = SIDES[box.side]
    lines = [
        Markup("<text x='{}' y='{}' style='fill:{}'>{}</text>").format(
            x + 10, y + 18 + 15 * (n + 1), QUIET, _fit(fact, 24)
        )
        for n, fact in enumerate(box.facts)
    ]
    head = Markup(
        "<g class='box' data-side='{}'><title>{}</title>"
        "<rect x='{}' y='{}' width='{}' height='{}' rx='6' "
        "style='fill:{};fill-opacity:.12;stroke:{};stroke-width:1.5'/>"
        "<text x='{}' y='{}' font-weight='600' style='fill:{}'>{}</text>"
    ).format(
        box.side, ", ".join((box.name, *box.facts)), x, y, BOX, high, colour, colour,
        x + 10, y + 18, INK, _fit(box.name, 20),
    )  # fmt: skip
    return head + Markup("").join(lines) + Markup("</g>")


def _fit(text: str, most: int) -> str:
    """What is too long for a box loses its middle."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most // 2) :]}"


def chip_svg(view: ChipView, number: int) -> Markup:
    """One chip with every core, coloured by the layer that has most neurons there, and its links.

    Args:
        view: from :func:`hwsim.report.html.chips.chips_of`.
        number: the chip's.
    """
    side = ceil(sqrt(view.cores_per_router))
    step = side * CELL + SPACE
    width = 2 * FRAME + view.width * step - SPACE
    height = 2 * FRAME + view.height * step - SPACE
    used = [core for core in view.cores if core.chip == number]
    by_index = {core.index: core for core in used}
    title = f"Chip {number}: {len(used)} of {view.cores_per_chip} cores in use"
    parts = [
        Markup(
            f"<svg class='chip' role='img' viewBox='0 0 {width} {height}' {FONT} "
            f"style='width:100%;max-width:{width * 2}px'><title>{title}</title>"
            f"<rect x='1' y='1' width='{width - 2}' height='{height - 2}' rx='8' "
            f"style='fill:none;stroke:{QUIET}'/>"
        )
    ]
    busiest = max((link.messages for link in view.links), default=0.0)
    parts += [_link(link, view, number, step, busiest) for link in view.on_chip(number)]
    for y in range(view.height):
        for x in range(view.width):
            for slot in range(view.cores_per_router):
                index = view.cores_per_router * (y * view.width + x) + slot
                if index in view.usable:
                    left = FRAME + x * step + slot % side * CELL
                    top = FRAME + (view.height - 1 - y) * step + slot // side * CELL
                    parts.append(_core(by_index.get(index), view, left, top))
    return Markup("").join([*parts, Markup("</svg>")])


def _core(core: CoreView | None, view: ChipView, x: int, y: int) -> Markup:
    size = CELL - 2
    if core is None:
        return Markup(
            f"<rect x='{x}' y='{y}' width='{size}' height='{size}' rx='2' style='fill:{FREE}'/>"
        )
    label = view.layers[core.layer].label
    return Markup(
        "<g class='core' data-core='{}'><title>{}</title>"
        "<rect x='{}' y='{}' width='{}' height='{}' rx='2' style='fill:{}'/>"
        "<text x='{}' y='{}' text-anchor='middle' font-size='{}' style='fill:{}'>{}</text></g>"
    ).format(
        core.number, core.about, x, y, size, size, layer_colour(core.layer),
        x + size / 2, y + size / 2 + 4, 10 if len(label) == 1 else 8, ink_on(core.layer), label,
    )  # fmt: skip


def _link(link: Traffic, view: ChipView, number: int, step: int, busiest: float) -> Markup:
    """A link as a line between its routers; one to another chip ends at the border."""

    def middle(place: tuple[int, int]) -> tuple[float, float]:
        x, y = place[0] - view.origin[number][0], place[1] - view.origin[number][1]
        half = (step - SPACE) / 2
        return FRAME + x * step + half, FRAME + (view.height - 1 - y) * step + half

    (x, y), (to_x, to_y) = middle(link.start), middle(link.end)
    wide = 1 + 7 * sqrt(link.messages / busiest) if busiest else 1
    about = f"router {link.start} to {link.end}: {units.count(link.messages)} messages a sample"
    return Markup(
        "<g class='link'><title>{}</title><path d='M{},{} L{},{}' "
        "style='stroke:{};stroke-width:{:.1f};stroke-linecap:round;opacity:.55'/></g>"
    ).format(about, x, y, to_x, to_y, QUIET, wide)


def legend_html(view: ChipView) -> Markup:
    """The layers of a chip with their letters and colours."""
    return Markup("").join(
        Markup("<li><i style='background:{};color:{}'>{}</i> {} <small>{}</small></li>").format(
            layer_colour(number),
            ink_on(number),
            layer.label,
            escape(layer.name),
            units.many(layer.cores, "core"),
        )
        for number, layer in enumerate(view.layers)
    )
