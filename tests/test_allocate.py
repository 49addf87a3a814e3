"""Tiles: what each needs, counted one neuron and one synapse at a time, and how few there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import ceil, prod

import msgspec
import numpy as np
import pytest
from builders import (
    LOIHI,
    PATIENT,
    Place,
    conv,
    in_time,
    law,
    lif,
    linear,
    networks,
    out_shape,
    population,
    segment,
    single_synapses,
    wirings,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from has8.errors import DoesNotFit
from mapping.chip.segment import ChipSegment, Population, Synapse
from mapping.chip.wiring import Wiring, dense, shape3
from mapping.cores.allocate import Tile, allocate, cuts_of
from mapping.cores.lists import Memory, list_words
from mapping.cores.need import Order, forms, memory
from mapping.cores.pack import first_fit, joined
from mapping.cores.tilings import axon_choices, axons_in, classes, held, layers_of, stored
from mapping.targets.schema import CoreLimits, Packing, Target, load_target


def target(packing: dict[str, object] | None = None, **core: object) -> Target:
    """Loihi with other limits."""
    changed = msgspec.structs.replace(LOIHI.core.packing, **(packing or {}))
    limits = msgspec.structs.replace(LOIHI.core, packing=changed, **core)
    return msgspec.structs.replace(LOIHI, core=limits)


def empty(name: str, source: str, wires: Wiring, bits: int = 8) -> Synapse:
    """A synapse without a word about its weights: they take memory whatever they are."""
    return Synapse(name, source, wires, np.zeros(wires.weight_shape, int), 0, "mixed", bits)


# ------------------------------------------------------------------ the obvious, in plain loops


def width(indices: list[int], packing: Packing) -> int:
    needed = max(indices, default=0).bit_length()
    return min(bits for bits in packing.index_bits if bits >= needed)


def lists_of(wires: Wiring, tile: Tile, packing: Packing, order: str) -> list[list[int]]:
    """The indices of each list of synapses that the tile stores."""
    start, stop = (*tile.start, 0, 0)[:3], shape3(tile.stop)
    sizes = [b - a for a, b in zip(start, stop, strict=True)]
    axes = ["chw".index(axis) for axis in order]
    reached: dict[Place, list] = defaultdict(list)
    for origin, to, weight in single_synapses(wires):
        if all(a <= x < b for a, x, b in zip(start, to, stop, strict=True)):
            reached[origin].append(([x - a for x, a in zip(to, start, strict=True)], weight))

    def position(place: Sequence[int]) -> int:
        return int(np.ravel_multi_index([place[a] for a in axes], [sizes[a] for a in axes]))

    alike: dict[object, list[int]] = defaultdict(list)
    for (c, *_), found in reached.items():
        base = position([0, min(at[1] for at, _ in found), min(at[2] for at, _ in found)])
        alike[c, tuple(sorted((position(at) - base, weight) for at, weight in found))].append(base)
    stored = []
    for (_, entries), bases in alike.items():
        windows = defaultdict(list)
        for base in bases:
            windows[(base - min(bases)) // (packing.shared_base_max + 1)].append(base)
        for window in windows.values():
            beyond = max(0, tile.offset + max(window) - packing.shared_base_max)
            stored.append([index + beyond for index, _ in entries])
    return stored


def entries_of(indices: list[int], longest: int | None, packing: Packing) -> list[int]:
    """How long the entries of a list are; another begins where a step is too long."""
    entries, last = [], None
    for index in indices:
        step = 1 if last is None or longest is None else index - last
        if not entries or entries[-1] == packing.entry_synapses or step > (longest or 1):
            entries.append(0)
        entries[-1] += 1
        last = index
    return entries


def written(lists: list[list[int]], bits: int, step: int | None, packing: Packing) -> list[int]:
    """Words of each list: in runs with so many bits for a step, or else dense or sparse."""
    words = []
    for found in lists:
        is_dense = found[-1] - found[0] + 1 == len(found)
        kind = [x for x in lists if (x[-1] - x[0] + 1 == len(x)) == is_dense]
        index = width([x[-1] for x in (kind if step is None else lists)], packing)
        in_front = index if step is not None or (is_dense and packing.dense_prefix) else 0
        each = bits + (step if step is not None else 0 if is_dense else index)
        entries = entries_of(found, None if step is None else max(1, 2**step - 1), packing)
        sizes = [n * each + packing.header_bits + in_front for n in entries]
        words.append(sum(ceil(size / packing.word_bits) for size in sizes))
    return words


def forms_of(
    synapse: Synapse, tile: Tile, packing: Packing, order: str, wait: int = 0
) -> list[tuple[int, int, int]]:
    """Words, the longest list's and formats of each form, where spikes wait so many steps."""
    lists = lists_of(synapse.wiring, tile, packing, order)
    if not lists:
        return [(0, 0, 0)]
    dense = {found[-1] - found[0] + 1 == len(found) for found in lists}
    steps = [None, *(() if dense == {True} else packing.step_bits)]
    bits = synapse.weight_bits + wait.bit_length()
    every = [written(lists, bits, step, packing) for step in steps]
    formats = [len(dense)] + [1] * len(packing.step_bits)
    return [(sum(words), max(words), n) for words, n in zip(every, formats, strict=False)]


def memory_of(
    layer: Population, tile: Tile, core: CoreLimits, waits: Sequence[int]
) -> tuple[int, int, int]:
    """Words, the longest list and formats of all synapses, in the order that takes fewest words."""
    packing = core.packing

    def plain(offset: int) -> list[tuple[int, int, int]]:
        there = replace(tile, offset=offset)
        every = zip(layer.synapses, waits, strict=True)
        return [forms_of(synapse, there, packing, "chw", wait)[0] for synapse, wait in every]

    part = sum(words for words, *_ in plain(0)) / core.synapse_words
    long = any(longest > packing.list_words for _, longest, _ in plain(0))
    best = plain(tile.offset)
    if packing.step_bits and (part > tile.size / core.neurons or long):
        for order in ("chw", "hwc"):
            chosen = []
            for synapse, wait, before in zip(
                layer.synapses, waits, plain(tile.offset), strict=True
            ):
                every = forms_of(synapse, tile, packing, order, wait)
                chosen += [
                    min(
                        (f for f in every if f[1] <= packing.list_words and f[2] <= before[2]),
                        default=None,
                    )
                ]
            if None not in chosen and sum(f[0] for f in chosen) < sum(f[0] for f in best):
                best = chosen
    words, longest, formats = zip(*best, strict=True) if best else ((), (), ())
    return sum(words), max(longest, default=0), sum(formats)


def constants_of(layer: Population, tile: Tile, *names: str) -> int:
    """How many different sets of some constants the neurons of a tile have."""
    every = [np.broadcast_to(getattr(layer.neuron, name), layer.shape) for name in names]
    places = product(*map(range, tile.start, tile.stop))
    return len({tuple(int(values[at]) for values in every) for at in places})


def needs_of(tiles: Sequence[Tile], seg: ChipSegment, chip: Target) -> list[dict[str, int]]:
    """What each tile needs."""
    core, needs, late = chip.core, [], seg.depths()
    owner: dict[tuple[str, Place], int] = {}
    for number, tile in enumerate(tiles):
        layer = seg.population(tile.population)
        start, stop = (*tile.start, 0, 0)[:3], shape3(tile.stop)
        owner |= {(layer.name, at): number for at in product(*map(range, start, stop))}
        need = dict.fromkeys(core.limits, 0)
        need.update(
            neurons=tile.size,
            threshold_configs=constants_of(layer, tile, "threshold"),
            compartment_configs=constants_of(layer, tile, "du", "dv"),
            output_axons=tile.size if layer.name in seg.outputs else 0,
        )
        waits = []
        for synapse in layer.synapses:
            hosted = synapse.source in {port.name for port in seg.inputs}
            early = 0 if hosted else late[layer.name] - late[synapse.source] - 1
            waits.append(max(0, early + synapse.delay))
        words, need["list_words"], need["synapse_formats"] = memory_of(layer, tile, core, waits)
        need["synapse_bits"] = words * core.packing.word_bits
        needs.append(need)
    for layer, synapse in seg.synapses():
        inputs, outputs = set(), set()
        shapes = synapse.wiring.in_shape, shape3(seg.shape_of(synapse.source))
        for origin, to, _ in single_synapses(synapse.wiring):
            here = owner[layer.name, to]
            axon = core.axons[tiles[here].axons[synapse.name]]
            inputs.add((here, origin[1:] if axon.input_per == "pixel" else origin))
            flat = np.ravel_multi_index(origin, shapes[0])
            sender = synapse.source, tuple(map(int, np.unravel_index(flat, shapes[1])))
            if sender in owner:
                there = owner[sender]
                sent = origin[1:] if axon.output_per == "pixel" else origin
                outputs.add((there, here, sent, axon.output_slots))
        for here, _ in inputs:
            needs[here]["input_axons"] += 1
        for there, *_, slots in outputs:
            needs[there]["output_axons"] += slots
    return needs


def check_tiles(tiles: tuple[Tile, ...], seg: ChipSegment, chip: Target) -> None:
    """Needs are those of plain counting, each neuron is on one tile, and cores hold theirs."""
    assert [tile.need for tile in tiles] == needs_of(tiles, seg, chip)

    held = {population.name: np.zeros(population.shape) for population in seg.populations}
    for tile in tiles:
        held[tile.population][tuple(map(slice, tile.start, tile.stop))] += 1
    assert all((times == 1).all() for times in held.values())

    cores = defaultdict(list)
    for tile in tiles:
        cores[tile.core].append(tile)
    assert sorted(cores) == list(range(len(cores)))
    for shared in cores.values():
        used = joined(tile.need for tile in shared)
        assert all(used[name] <= limit for name, limit in chip.core.limits.items())
        ends = sorted((tile.offset, tile.offset + tile.size) for tile in shared)
        assert [begin for begin, _ in ends] == [0, *(end for _, end in ends[:-1])]


@st.composite
def layers(draw: st.DrawFn, name: str, source: str, shape: tuple[int, ...]) -> Population:
    """A layer behind a source, at times with constants for each channel or each neuron."""
    wires = draw(wirings(shape))
    bits = draw(st.sampled_from([1, 8])) if wires.full else 4
    shape = out_shape(wires)
    channel = (shape[0], *(1,) * (len(shape) - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def some(values: list[int]) -> np.ndarray:
        of = draw(st.sampled_from([(), (), channel, shape]))
        return np.array(rng.choice(np.array(values), of), np.int64)

    neuron = replace(lif(shape), threshold=some([100, 100, 200, 300, 400]), dv=some([0, 0, 0, 9]))
    return Population(name, shape, (empty(f"{name}.w", source, wires, bits),), neuron)


@st.composite
def segments(draw: st.DrawFn) -> ChipSegment:
    """Two layers, the second at times with a second synapse straight from the input."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    first = draw(layers("a", "in", shape))
    if len(first.shape) == 1:
        second = population("b", (2,), empty("b.w", "a", dense(2, first.shape)))
    else:
        second = draw(layers("b", "a", first.shape))
    if len(second.shape) == 1 and draw(st.booleans()):
        skip = empty("b.skip", "in", dense(second.shape[0], shape), 2)
        second = replace(second, synapses=(*second.synapses, skip))
    outputs = draw(st.sampled_from([("b",), ("a", "b")]))
    return segment(first, second, inputs={"in": shape}, outputs=outputs)


TIGHT = st.builds(
    target,
    packing=st.fixed_dictionaries(
        {
            "word_bits": st.just(16),
            "entry_synapses": st.sampled_from([2, 5]),
            "shared_base_max": st.sampled_from([0, 3, 255]),
            "dense_prefix": st.booleans(),
            "index_bits": st.just((0, 2, 3, 4, 5, 6, 7)),
            "step_bits": st.sampled_from([(), (0,), (0, 1, 2, 3)]),
        }
    ),
    neurons=st.sampled_from([6, 25, 100]),
    input_axons=st.sampled_from([30, 100]),
    output_axons=st.sampled_from([40, 200]),
    synapse_words=st.sampled_from([300, 2000]),
    threshold_configs=st.sampled_from([2, 8]),
    compartment_configs=st.sampled_from([1, 32]),
)


# ------------------------------------------------------------------------------------- the laws


@law(60)
@given(segments(), TIGHT)
def test_needs_are_those_of_plain_counting_and_within_the_limits(
    seg: ChipSegment, chip: Target
) -> None:
    try:
        tiles = allocate([seg], chip)
    except DoesNotFit:
        assume(False)
    check_tiles(tiles, seg, chip)


@law(30)
@given(networks(delays=3, loops=True).map(in_time), TIGHT)
def test_loops_are_cut_by_plain_counting_or_refused_with_what_they_lack(
    seg: ChipSegment, chip: Target
) -> None:
    """Whatever the order in which the populations are listed."""
    try:
        tiles = allocate([seg], chip)
    except DoesNotFit as error:
        names = {s.name for _, s in seg.synapses()} | {p.name for p in seg.populations}
        assert error.layer in names
        assert error.need > error.have
    else:
        check_tiles(tiles, seg, chip)


@law(60)
@given(
    layers("a", "in", (2, 4, 5)),
    TIGHT,
    st.integers(0, 20),
    st.sampled_from(["chw", "hwc"]),
    st.data(),
)
def test_the_memory_of_any_block_is_that_of_plain_counting(
    layer: Population, chip: Target, offset: int, order: Order, data: st.DataObject
) -> None:
    """In each form of the lists."""
    (synapse,), out = layer.synapses, shape3(layer.shape)
    start = tuple(data.draw(st.integers(0, extent - 1)) for extent in out)
    stop = tuple(data.draw(st.integers(a + 1, b)) for a, b in zip(start, out, strict=True))
    assume(offset + prod(b - a for a, b in zip(start, stop, strict=True)) <= 100)
    packing, tile = chip.core.packing, Tile("seg", "a", start, stop, {}, {}, 0, offset)
    asked = synapse.wiring, synapse.weight_bits, start, stop, offset, packing
    expected = forms_of(synapse, tile, packing, order)
    assert [numbers(form) for form in forms(*asked, order)] == expected
    assert numbers(memory(*asked)) == forms_of(synapse, tile, packing, "chw")[0]


def numbers(form: Memory) -> tuple[int, int, int]:
    return form.words, form.longest, form.formats


@law(60)
@given(segments(), TIGHT, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_blocks_of_one_class_need_the_same(
    seg: ChipSegment, chip: Target, channels: int, rows: int, cols: int
) -> None:
    for layer in layers_of(seg, chip.registers):
        block = tuple(map(min, (channels, rows, cols), layer.shape))
        axons = next(axon_choices(layer, chip.core))

        def need(start: Place, stop: Place) -> tuple[object, ...]:
            found = held(layer, start, stop, 0, chip.core)  # noqa: B023
            inputs = axons_in(layer, axons, start, stop, chip.core)  # noqa: B023
            return (*found.values(), inputs)

        every = set()
        for start in product(*(range(0, e, b) for e, b in zip(layer.shape, block, strict=True))):
            ends = zip(start, block, layer.shape, strict=True)
            every.add(need(start, tuple(min(a + b, e) for a, b, e in ends)))
        assert {need(*place) for place in classes(layer, block)} == every


def room_of(tiles: Sequence[Tile], seg: ChipSegment, chip: Target) -> int:
    """Compartments that a layer's blocks keep: a core each, or their part of one if smaller."""
    compartments, limits = chip.core.neurons, chip.core.limits
    sizes = [tuple(b - a for a, b in zip(t.start, t.stop, strict=True)) for t in tiles]
    behind = [replace(t, offset=max(0, compartments - t.size)) for t in tiles]
    least: dict[tuple[int, ...], int] = {sizes[0]: compartments}
    for size, need in zip(sizes, needs_of(behind, seg, chip), strict=True):
        part = max(n / limits[name] for name, n in need.items() if not name.endswith("axons"))
        together = max(1, compartments // ceil(part * compartments))
        least[size] = max(compartments // together, least.get(size, 0))
    return sum(least[size] for size in sizes)


def best_room(seg: ChipSegment, chip: Target, share: bool) -> int:
    """What the best cut of a segment's only layer keeps."""
    (cut,) = cuts_of(layers_of(seg, chip.registers), chip.core, share)[0].values()
    return cut.room


@law(25)
@given(layers("a", "in", (2, 4, 5)), TIGHT, st.integers(1, 3), st.booleans())
def test_more_of_anything_never_needs_more_room(
    layer: Population, small: Target, more: int, share: bool
) -> None:
    seg = segment(layer, inputs={"in": (2, 4, 5)})
    core = small.core
    large = msgspec.structs.replace(
        small,
        core=msgspec.structs.replace(
            core,
            input_axons=core.input_axons * more,
            output_axons=core.output_axons * more,
            synapse_words=core.synapse_words * more,
        ),
    )
    try:
        before = best_room(seg, small, share)
    except DoesNotFit:
        assume(False)
    assert best_room(seg, large, share) <= before


@law(25)
@given(layers("a", "in", (2, 3, 4)), TIGHT, st.booleans())
def test_no_other_cut_needs_less_room_and_cores_are_no_more_than_blocks(
    layer: Population, chip: Target, share: bool
) -> None:
    seg, shape = segment(layer, inputs={"in": (2, 3, 4)}), shape3(layer.shape)
    axes, most = len(layer.shape), chip.core.neurons
    rooms = []
    even = [{ceil(extent / n) for n in range(1, extent + 1)} for extent in shape]
    for block in product(*(range(1, extent + 1) for extent in shape)):
        odd = [axis for axis in range(3) if block[axis] not in even[axis]]
        longer = [prod(block) // block[axis] * (block[axis] + 1) for axis in odd]
        if prod(block) > most or len(odd) > share or any(size <= most for size in longer):
            continue
        starts = list(product(*(range(0, e, b) for e, b in zip(shape, block, strict=True))))
        if not share and rooms and len(starts) * most >= min(rooms):
            continue
        stops = [
            tuple(min(a + b, e) for a, b, e in zip(start, block, shape, strict=True))
            for start in starts
        ]
        for axon in chip.core.axons:
            if axon == "pop32" and layer.synapses[0].wiring.groups > 1:
                continue
            cut = tuple(
                Tile("seg", "a", start[:axes], stop[:axes], {"a.w": axon}, {}, 0, 0)
                for start, stop in zip(starts, stops, strict=True)
            )
            needs, limits = needs_of(cut, seg, chip), chip.core.limits
            if all(need[name] <= limits[name] for need in needs for name in need):
                rooms.append(room_of(cut, seg, chip) if share else len(cut) * most)
    if rooms:
        assert best_room(seg, chip, share) == min(rooms)
        assert share or len({tile.core for tile in allocate([seg], chip)}) * most <= min(rooms)
    else:
        with pytest.raises(DoesNotFit):
            allocate([seg], chip)


@PATIENT
@given(st.lists(st.tuples(st.integers(1, 10), st.integers(0, 7), st.integers(1, 4)), max_size=12))
def test_first_fit_fills_cores_within_limits(amounts: list[tuple[int, int, int]]) -> None:
    limits = {"neurons": 10, "synapse_bits": 10, "list_words": 4}

    def needs(place: int) -> dict[str, int]:
        return dict(zip(limits, amounts[place], strict=True))

    def later(place: int, offset: int) -> dict[str, int]:
        need = needs(place)
        return {**need, "synapse_bits": need["synapse_bits"] + (offset > 5)}

    seats = first_fit([lambda o, p=p: later(p, o) for p in range(len(amounts))], limits)
    share = [max(n / limits[name] for name, n in needs(p).items()) for p in range(len(amounts))]
    plainly: list[list[int]] = []
    for this in sorted(range(len(amounts)), key=lambda p: -share[p]):
        for here in [*plainly, []]:
            offset = sum(amounts[p][0] for p in here)
            used = joined([*(seats[p].need for p in here), later(this, offset)])
            if all(used[name] <= limits[name] for name in used):
                break
        plainly += [] if here else [here]
        here.append(this)
    assert all(len({seats[p].core for p in here}) == 1 for here in plainly)
    assert len(plainly) == len({seat.core for seat in seats})
    for core in range(len({seat.core for seat in seats})):
        shared = [seat for seat in seats if seat.core == core]
        used = joined(seat.need for seat in shared)
        assert all(used[name] <= limits[name] for name in limits)
    assert [seat.need for seat in seats] == [
        later(place, seat.offset) for place, seat in enumerate(seats)
    ]


# --------------------------------------------------------------------------------- exact examples


def two_layers() -> ChipSegment:
    first = population("a", (4,), linear("a.w", "in", (8,), np.zeros((4, 8))))
    second = population("b", (3,), linear("b.w", "a", (4,), np.zeros((3, 4))))
    return segment(first, second, inputs={"in": (8,)}, outputs=["b"])


def test_bits_of_a_list_by_hand() -> None:
    """nengo-loihi's rule: 64 synapses an entry, 10 bits in front, whole words of 64 bits."""
    packing = LOIHI.core.packing

    def words(synapses: int, bits: int) -> int:
        counts = np.array([synapses])
        return int(list_words(counts, np.array([bits]), np.array([10]), packing)[0])

    assert words(1, 8 + 6) == 1  # 14 + 10 = 24 bits
    assert words(64, 8 + 6) == 15  # 64 * 14 + 10 = 906 bits
    assert words(65, 8 + 6) == 16  # and one synapse more in an entry of its own
    assert words(100, 8 + 6) == 15 + 9  # 36 * 14 + 10 = 514 bits
    assert words(64, 8) == 9  # 522 bits
    assert words(0, 8) == 0


def test_a_linear_layer_by_hand() -> None:
    layer = population("a", (100,), linear("a.w", "in", (20,), np.zeros((100, 20))))
    seg = segment(layer, inputs={"in": (20,)}, name="seg")
    (tile,) = allocate([seg], LOIHI)
    # each of 20 sources: dense entries of 64 and 36 synapses, an index of 7 bits in front
    words = ceil((64 * 8 + 17) / 64) + ceil((36 * 8 + 17) / 64)
    assert tile == Tile(
        segment="seg",
        population="a",
        start=(0,),
        stop=(100,),
        axons={"a.w": "pop32"},
        need={
            "neurons": 100,
            "input_axons": 1,
            "output_axons": 100,
            "synapse_bits": 20 * words * 64,
            "list_words": words,
            "synapse_formats": 1,
            "threshold_configs": 1,
            "compartment_configs": 1,
        },
        core=0,
        offset=0,
    )


def test_a_convolution_shares_its_kernel() -> None:
    """Nine patterns, three along each axis, whatever the size of the map; one list each."""
    shapes = [(1, side, side) for side in (8, 12, 16)]
    bits = []
    for shape in shapes:
        kernel = conv("a.w", "in", shape, np.zeros((1, 1, 3, 3)), padding=1)
        (tile,) = allocate([segment(population("a", shape, kernel), inputs={"in": shape})], LOIHI)
        bits.append(tile.need["synapse_bits"])
    # the middle: 9 synapses of 8 + 6 bits and 10 make 136 bits, so 3 words; the sides 6, the
    # corners 4 synapses: 94 and 66 bits, 2 words each. A side of 16 has indices up to 34.
    assert bits == [(3 + 4 * 2 + 4 * 2) * 64] * 3


def test_a_convolution_whose_memory_binds_by_hand() -> None:
    """16 channels of 4 x 4: a middle source reaches three rows of three pixels of all channels."""
    shape = (128, 4, 4)
    kernel = conv("a.w", "in", shape, np.zeros((16, 128, 3, 3)), padding=1)
    (layer,) = layers_of(
        segment(population("a", (16, 4, 4), kernel), inputs={"in": shape}), LOIHI.registers
    )
    order, (found,) = stored(layer, (0, 0, 0), (16, 4, 4), 0, LOIHI.core)
    assert (order, found.form, found.formats) == ("hwc", "dense runs", 1)
    # a run of 48 synapses of 8 bits, 10 bits in front and an index of 8: 7 words; of 32: 5 words
    assert found.longest == 3 * 7
    taps = (2, 3, 2)  # of the first, the middle and the last source along an axis
    assert found.words == 128 * sum(high * {2: 5, 3: 7}[wide] for high in taps for wide in taps)
    # sparse lists of 64, 96 and 144 synapses of 8 bits and an index of 8
    plain = held(layer, (0, 0, 0), (16, 4, 4), 0, target({"step_bits": ()}).core)
    assert plain["synapse_bits"] == 64 * 128 * (4 * 17 + 4 * (17 + 9) + (2 * 17 + 5))


def test_a_chip_that_shares_kernels_stores_each_tap_once() -> None:
    """Whatever the size of the map, and at its borders too; neurons take of the same memory."""
    loihi2 = load_target("loihi2")
    for shape in ((2, 8, 8), (2, 24, 24)):
        kernel = conv("a.w", "in", shape, np.zeros((6, 2, 3, 3)), padding=1)
        layer = population("a", (6, *shape[1:]), kernel)
        (tile,) = allocate([segment(layer, inputs={"in": shape})], loihi2)
        words = 2 * 9  # 6 synapses of 8 bits and 10 are 58 bits, one word
        assert tile.need["synapse_bits"] == words * 64
        assert tile.need["memory_words"] == 3 * tile.size + words


def test_neurons_and_synapses_share_a_memory() -> None:
    """8,192 neurons would fill it: with a synapse each they need a second core."""
    loihi2 = load_target("loihi2")
    source = (1, 64, 128)
    bare = population("a", source)
    assert len(allocate([segment(bare, inputs={"in": source})], loihi2)) == 1
    wired = population("a", source, conv("a.w", "in", source, np.zeros((1, 1, 1, 1))))
    tiles = allocate([segment(wired, inputs={"in": source})], loihi2)
    assert [tile.need["memory_words"] for tile in tiles] == [3 * 4096 + 1] * 2


def test_sources_share_a_list_where_their_bases_differ_by_no_more_than_the_limit() -> None:
    shape = (1, 32, 32)
    layer = population("a", shape, conv("a.w", "in", shape, np.zeros((1, 1, 1, 1))))
    (tile,) = allocate([segment(layer, inputs={"in": shape})], LOIHI)
    # each 256 pixels share a list of one synapse
    assert tile.need["synapse_bits"] == 4 * 64


def test_the_stem_of_a_residual_network_fills_its_cores() -> None:
    image = (3, 32, 32)
    kernel = conv("a.w", "in", image, np.zeros((64, 3, 7, 7)), stride=2, padding=3)
    stem = population("a", (64, 16, 16), kernel)
    tiles = allocate([segment(stem, inputs={"in": image})], LOIHI)
    assert len({tile.core for tile in tiles}) == 64 * 16 * 16 // 1024


def test_blocks_that_are_left_over_share_cores() -> None:
    """Equal blocks would need six cores of 512; 4 x 8 pixels fill one, and half as many share."""
    layer = population("a", (16, 12, 12), conv("a.w", "in", (1, 12, 12), np.zeros((16, 1, 1, 1))))
    seg = segment(layer, inputs={"in": (1, 12, 12)})
    tiles = allocate([seg], target(neurons=512))
    assert {tile.size for tile in tiles} == {512, 256}
    assert len({tile.core for tile in tiles}) == 5


def test_small_layers_share_a_core() -> None:
    tiles = allocate([two_layers()], LOIHI)
    assert [(tile.core, tile.offset) for tile in tiles] == [(0, 0), (0, 4)]
    # two axons: tiles on one core are two destinations, and spikes to the core itself count
    assert [tile.need["output_axons"] for tile in tiles] == [2, 3]


def test_segments_never_share_a_core() -> None:
    layer = population("a", (4,), linear("a.w", "in", (8,), np.zeros((4, 8))))
    seg = segment(layer, inputs={"in": (8,)})
    assert [tile.core for tile in allocate([seg, seg], LOIHI)] == [0, 1]
    assert allocate([], LOIHI) == ()


def test_the_threshold_table_limits_sharing() -> None:
    one = target(threshold_configs=1)
    assert [tile.core for tile in allocate([two_layers()], one)] == [0, 1]


def test_tables_cut_a_layer_whose_blocks_differ_in_nothing_else() -> None:
    """The first two channels have one threshold, the last two have two."""
    synapse = linear("a.w", "in", (8,), np.zeros((4, 8)))
    layer = population("a", (4,), synapse, threshold=[1, 1, 2, 3], dv=[5, 5, 5, 6])
    seg = segment(layer, inputs={"in": (8,)})
    blocks = {limit: allocate([seg], target(threshold_configs=limit)) for limit in (1, 2, 3)}
    assert {limit: len(tiles) for limit, tiles in blocks.items()} == {1: 4, 2: 2, 3: 1}
    needs = [tile.need["threshold_configs"] for tile in blocks[2]]
    assert needs == [1, 2]
    assert [tile.need["compartment_configs"] for tile in blocks[2]] == [1, 2]
    (whole,) = blocks[3]
    assert whole.need["compartment_configs"] == 2


def test_output_axons_cut_a_layer() -> None:
    """A layer whose neurons feed several cores gets smaller tiles when their axons run out."""
    first = population("a", (8, 4, 4), conv("a.w", "in", (1, 4, 4), np.zeros((8, 1, 1, 1))))
    second = population("b", (64, 4, 4), conv("b.w", "a", (8, 4, 4), np.zeros((64, 8, 1, 1))))
    seg = segment(first, second, inputs={"in": (1, 4, 4)}, outputs=["b"])
    wide = allocate([seg], target(neurons=128))
    narrow = allocate([seg], target(neurons=128, output_axons=20))
    assert sum(tile.population == "a" for tile in wide) == 1
    assert sum(tile.population == "a" for tile in narrow) > 1
    assert max(tile.need["output_axons"] for tile in narrow if tile.population == "a") <= 20


# ----------------------------------------------------------------------------------- the failure


def test_a_layer_with_too_many_inputs() -> None:
    layer = population("a", (10,), linear("fc", "in", (20_000,), np.zeros((10, 20_000))))
    seg = segment(layer, inputs={"in": (20_000,)})
    with pytest.raises(DoesNotFit) as caught:
        allocate([seg], LOIHI)
    assert str(caught.value) == (
        "layer 'fc' does not fit on a core: it needs at least 20,000 input axons and a core has "
        "4,096; make the layer before it smaller, or keep it on the host (--pin 'fc=host')"
    )


def test_a_layer_with_too_many_weights() -> None:
    """As pixels of 32 channels the inputs fit, but each has a list of at least one word."""
    image = (32, 25, 25)
    layer = population("a", (10,), linear("fc", "in", image, np.zeros((10, 20_000))))
    seg = segment(layer, inputs={"in": image})
    with pytest.raises(DoesNotFit, match="'fc' .* at least 1,280,000 synapse bits .* 1,048,576"):
        allocate([seg], LOIHI)


def test_a_layer_that_feeds_too_many_tiles() -> None:
    first = population("a", (1,), linear("a.w", "in", (1,), np.zeros((1, 1))))
    second = population("b", (40,), linear("b.w", "a", (1,), np.zeros((40, 1))))
    seg = segment(first, second, inputs={"in": (1,)}, outputs=["b"])
    chip = target(neurons=1, output_axons=50)
    with pytest.raises(DoesNotFit, match="layer 'a' .* at least 40 output axons .* has 30"):
        allocate([seg], target(neurons=1, output_axons=30))
    assert len(allocate([seg], chip)) == 41


def test_a_layer_that_feeds_too_many_tiles_in_front_of_it() -> None:
    """Through a loop: 40 tiles and the host, whichever of the layers is listed first."""
    first = population(
        "a",
        (40,),
        linear("a.w", "in", (1,), np.zeros((40, 1))),
        linear("a.back", "b", (1,), np.zeros((40, 1)), delay=2),
    )
    second = population("b", (1,), linear("b.w", "a", (40,), np.zeros((1, 40))))
    for layers in ((first, second), (second, first)):
        seg = segment(*layers, inputs={"in": (1,)}, outputs=["b"])
        with pytest.raises(DoesNotFit, match="layer 'b' .* at least 41 output axons .* has 40;"):
            allocate([seg], target(neurons=1, output_axons=40))
        assert len(allocate([seg], target(neurons=1, output_axons=41))) == 41
