"""What a chip can do and what it costs: data with sources, read from YAML.

A target is one file in ``mapping/targets`` or a file of the user's own. In Python the limits are
plain numbers, and ``target.citations["registers.state_bits"]`` tells where one comes from; prices,
powers and times are figures (:mod:`mapping.targets.figures`). Code holds no chip constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta
from msgspec.structs import replace

from has8.errors import UnknownName
from mapping.targets.figures import Figure
from mapping.targets.prices import Accounting, HostLink, Learning, Power
from mapping.targets.sheets import (
    LARGEST,
    AboveZero,
    AtLeastOne,
    Data,
    Nanoseconds,
    Natural,
    Positive,
    Sheet,
    Unit,
    find_sheet,
    sheet_names,
)

Bits = Annotated[int, Meta(ge=1, le=16)]
"""Of a weight: all values of one are listed somewhere."""
Shift = Annotated[int, Meta(ge=0, le=48)]
Exponent = Annotated[int, Meta(ge=-48, le=48)]
WORD = 62
"""Bits that a shifted mantissa may have: it is computed in int64."""

SignMode = Literal["mixed", "excitatory", "inhibitory"]
Reset = Literal["zero", "subtract", "subtract_at_once", "none"]

_HERE = Path(__file__).parent


class Registers(Data, frozen=True, kw_only=True):
    """The integer arithmetic of one neuron core.

    Args:
        state_bits: width of current and membrane, sign included.
        keep_top: whether a current of exactly ``+2**(state_bits-1)`` stays (else it wraps).
        decay_bits: width of both decay registers; a decay is in ``1 / 2**decay_bits``.
        current_decay_offset: what the chip adds to the current's decay.
        membrane_decay_offset: what the chip adds to the membrane's decay.
        synapse_shift: a weight's mantissa acts times ``2**synapse_shift``.
        threshold_shift: a threshold's mantissa acts times ``2**threshold_shift``.
        threshold_max: largest mantissa of a threshold.
        bias_min: smallest mantissa of a bias.
        bias_max: largest mantissa of a bias.
        bias_exp_max: largest exponent of a bias; the smallest is 0.
        weight_exp_min: smallest weight exponent.
        weight_exp_max: largest weight exponent.
        weight_magnitude_bits: width of a weight's magnitude at full resolution.
        weight_bits: widths that a stored weight may have, ascending.
        sign_modes: signs that the weights of one synapse may have.
        resets: what a membrane may do after a spike, with the compartments that a neuron takes
            for it.
        refractory_max: most steps after a spike that may add nothing to the membrane.
        delay_max: most steps by which a synapse's spikes may be late. A file without it states no
            limit, and what is longer than the default is an error of whoever wrote it.
        neurons: neuron models.
        message_bits: the widest payload of a spike; 1 where spikes are not graded.
    """

    state_bits: Annotated[int, Meta(ge=2, le=48)]
    keep_top: bool
    decay_bits: Annotated[int, Meta(ge=1, le=14)]
    current_decay_offset: Annotated[int, Meta(ge=0, le=2**14)]
    membrane_decay_offset: Annotated[int, Meta(ge=0, le=2**14)]
    synapse_shift: Shift
    threshold_shift: Shift
    threshold_max: Positive
    bias_min: Annotated[int, Meta(ge=-LARGEST, le=0)]
    bias_max: Natural
    bias_exp_max: Shift
    weight_exp_min: Exponent
    weight_exp_max: Exponent
    weight_magnitude_bits: Bits
    weight_bits: Annotated[tuple[Bits, ...], Meta(min_length=1)]
    sign_modes: Annotated[tuple[SignMode, ...], Meta(min_length=1)]
    resets: Annotated[Mapping[Reset, Positive], Meta(min_length=1)]
    refractory_max: Natural = 0
    delay_max: Natural = 1 << 16
    neurons: Annotated[tuple[Literal["lif", "unpack", "pack"], ...], Meta(min_length=1)]
    message_bits: Annotated[int, Meta(ge=1, le=32)] = 1

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        if self.weight_exp_min > self.weight_exp_max:
            raise ValueError("weight_exp_min is larger than weight_exp_max")
        if list(self.weight_bits) != sorted(set(self.weight_bits)):
            raise ValueError("weight_bits must ascend")
        if self.weight_bits[-1] > self.weight_magnitude_bits:
            raise ValueError("weight_bits must not be wider than weight_magnitude_bits")
        weight = self.weight_magnitude_bits + max(0, self.weight_exp_max) + self.synapse_shift
        bias = max(-self.bias_min, self.bias_max).bit_length() + self.bias_exp_max
        threshold = self.threshold_max.bit_length() + self.threshold_shift
        for name, bits in (("weight", weight), ("bias", bias), ("threshold", threshold)):
            if bits > WORD:
                raise ValueError(f"a shifted {name} has {bits} bits, and may have {WORD} at most")


class Packing(Data, frozen=True, kw_only=True):
    """How a core stores the synapses of one source neuron: a list of entries.

    An entry holds up to ``entry_synapses`` synapses of weight and, if the list is sparse, index
    bits behind a header; it fills whole words.

    Args:
        word_bits: bits of a memory word.
        entry_synapses: synapses of one entry.
        header_bits: bits in front of an entry's synapses.
        index_bits: widths that an index may have, ascending.
        dense_prefix: whether an entry of a dense list, whose targets follow one another, holds
            the first index.
        list_words: words that one list may fill.
        shared_base_max: largest compartment base. Source neurons share a list when it differs
            by the base only, and by no more than this.
        step_bits: widths that the step to the next target may have in a run-length list; 0 stands
            for dense entries, of which another begins at each gap. Empty without such lists.
        shared_kernels: whether each input channel and tap of a kernel has one list of the output
            channels, whichever source neurons use it.
    """

    word_bits: Annotated[int, Meta(ge=1, le=2**16)]
    entry_synapses: Positive
    header_bits: Natural
    index_bits: Annotated[tuple[Shift, ...], Meta(min_length=1)]
    dense_prefix: bool
    list_words: Positive
    shared_base_max: Natural
    step_bits: tuple[Shift, ...] = ()
    shared_kernels: bool = False


class AxonType(Data, frozen=True, kw_only=True):
    """One way to address a core's synapses; a "pixel" is all channels of one position.

    Args:
        input_per: what needs one input axon of the destination core.
        output_per: what needs output axons of the source core, for each destination.
        output_slots: how many output axons.
        max_atoms: channels that one pixel may have; None where the type has no atoms.
    """

    input_per: Literal["neuron", "pixel"]
    output_per: Literal["neuron", "pixel"]
    output_slots: Positive
    max_atoms: Positive | None = None


class SharedMemory(Data, frozen=True, kw_only=True):
    """Memory of a core that neurons and synapses share, in words of ``packing.word_bits`` bits.

    Args:
        words: of the core.
        neuron_words: that one compartment takes.
    """

    words: Positive
    neuron_words: Positive


class CoreLimits(Data, frozen=True, kw_only=True):
    """What one neuron core holds.

    Args:
        neurons: compartments; a neuron takes one, or as many as its reset asks for.
        input_axons: entries of the table that finds a spike's synapses.
        output_axons: entries of the table that finds a spike's destinations.
        synapse_words: words of synapse memory, of ``packing.word_bits`` bits.
        synapse_formats: sets of (widths, exponent, sign mode, compression).
        threshold_configs: different thresholds.
        compartment_configs: different pairs of decays.
        packing: how synapses fill the memory.
        axons: the axon types by name.
        memory: what neurons and synapses share; None where each have their own.
        compiled_neurons: compartments that the vendor's own compiler puts on a core at most, for
            the allocation that cuts as it does; None where there is none to follow.
    """

    neurons: Positive
    input_axons: Positive
    output_axons: Positive
    synapse_words: Positive
    synapse_formats: Positive
    threshold_configs: Positive
    compartment_configs: Positive
    packing: Packing
    axons: Annotated[Mapping[str, AxonType], Meta(min_length=1)]
    memory: SharedMemory | None = None
    compiled_neurons: Positive | None = None

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        if (self.neurons - 1).bit_length() > self.packing.index_bits[-1]:
            raise ValueError("packing.index_bits must be wide enough for all neurons of a core")
        plain = [axon for axon in self.axons.values() if axon.max_atoms is None]
        if not any(axon.input_per == axon.output_per == "neuron" for axon in plain):
            raise ValueError("axons needs one type that is per neuron on both ends, without atoms")

    @property
    def limits(self) -> dict[str, int]:
        """The limit of each resource, by the names that an allocation's needs use."""
        return {
            "neurons": self.neurons,
            "input_axons": self.input_axons,
            "output_axons": self.output_axons,
            "synapse_bits": self.synapse_words * self.packing.word_bits,
            "list_words": self.packing.list_words,
            "synapse_formats": self.synapse_formats,
            "threshold_configs": self.threshold_configs,
            "compartment_configs": self.compartment_configs,
            **({} if self.memory is None else {"memory_words": self.memory.words}),
        }


class Board(Data, frozen=True, kw_only=True):
    """Chips on a grid that is filled column by column; each has links to those beside it.

    Args:
        chips: of the board.
        height: chips from south to north; 1 is a row.
    """

    chips: Positive
    height: Positive

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        if self.chips % self.height:
            raise ValueError(f"{self.chips} chips do not fill columns of {self.height}")


class Chip(Data, frozen=True, kw_only=True):
    """One chip and the boards that carry it.

    Args:
        mesh_width: router tiles from west to east.
        mesh_height: router tiles from south to north.
        cores_per_tile: neuron cores at one router.
        tile_spikes_per_ns: spikes that cross one tile border in a nanosecond.
        chip_link_slowdown: how many times slower a link between chips is than one within.
        boards: those that were built, by name.
        usable_cores: cores of a chip that networks can use; None where all can.
        board_height: chips from south to north, which are filled column by column; 1 is a row.
            Where a board is chosen, its own.
        board: the board that carries the chips, one of ``boards``; None where there are as many
            chips as a network needs.
        link_buffer: messages that wait at a router for one link, or for one core, at most; None
            where no source says.
    """

    mesh_width: Positive
    mesh_height: Positive
    cores_per_tile: Positive
    tile_spikes_per_ns: Annotated[Figure, Unit("spikes/ns", AboveZero)]
    chip_link_slowdown: Annotated[Figure, Unit("", AtLeastOne)]
    boards: Mapping[str, Board]
    board_height: Positive = 1
    board: str | None = None
    usable_cores: Positive | None = None
    link_buffer: Positive | None = None

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        if self.cores > self.mesh_width * self.mesh_height * self.cores_per_tile:
            raise ValueError(f"usable_cores is {self.cores}, more than the mesh has")
        if self.board is not None and self.board not in self.boards:
            raise ValueError(f"board {self.board!r} is not described")

    @property
    def cores(self) -> int:
        """Neuron cores of one chip that networks can use."""
        return self.usable_cores or self.mesh_width * self.mesh_height * self.cores_per_tile


class Target(Sheet, frozen=True, kw_only=True):
    """A chip: its arithmetic, its limits, its costs, and where each figure comes from.

    Args:
        registers: integer arithmetic of a core.
        core: limits of a core.
        chip: the mesh of cores.
        accountings: published energy models by name.
        default_accounting: the one to use unless told otherwise.
        chip_barrier_ns: nanoseconds of the barrier of systems of many chips, by chips.
        power: power without work.
        link: the way to the host.
        learning: the learning engine's costs; None where no source is known, or there is none.
    """

    registers: Registers
    core: CoreLimits
    chip: Chip
    accountings: Annotated[Mapping[str, Accounting], Meta(min_length=1)]
    default_accounting: str
    chip_barrier_ns: Mapping[Positive, Nanoseconds] = {}
    power: Power
    link: HostLink
    learning: Learning | None = None

    def __post_init__(self) -> None:
        """Check what single ranges cannot, and give each figure its place."""
        super().__post_init__()
        if self.default_accounting not in self.accountings:
            raise ValueError(f"default_accounting {self.default_accounting!r} is not described")
        reads = any(one.read_ns is not None for one in self.accountings.values())
        if reads and not self.core.packing.shared_kernels:
            raise ValueError("read_ns is for chips with packing.shared_kernels, whose reads count")

    def on_board(self, name: str) -> Target:
        """The same chips on one of the boards that were built: no more of them, and as they lie.

        Raises:
            UnknownName: if there is no board of that name.
        """
        boards = self.chip.boards
        if name not in boards:
            raise UnknownName("board", name, boards)
        height = boards[name].height
        return replace(self, chip=replace(self.chip, board=name, board_height=height))

    def accounting(self, name: str | None = None) -> Accounting:
        """The energy model called ``name``, or the default one.

        Raises:
            UnknownName: if there is none of that name.
        """
        name = name or self.default_accounting
        if name not in self.accountings:
            raise UnknownName("accounting", name, self.accountings)
        return self.accountings[name]


def target_names() -> list[str]:
    """Names of the bundled targets, sorted."""
    return sheet_names(_HERE)


def load_target(name_or_path: str | Path) -> Target:
    """Read a target.

    Args:
        name_or_path: a bundled target's name, or the path of a YAML file: what ends in
            ``.yaml`` or ``.yml`` or holds a separator is a path.

    Raises:
        UnknownName: if no target has that name.
        TargetError: if the file is missing or wrong; the message has the path of the entry.
    """
    return find_sheet(Target, "target", _HERE, name_or_path)
