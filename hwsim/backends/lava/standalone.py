"""``python -m hwsim.backends.lava``: a saved mapping's chip segments in Lava, spikes from a file.

For environments that have Lava and NumPy and nothing else of what has8 needs. Errors are one
sentence on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from has8.errors import BackendError, Has8Error
from has8.files import write_whole
from has8.reading import open_regular
from hwsim.backends.lava.backend import run_worker
from hwsim.backends.lava.limits import check_faithful
from mapping.chip.archive import read
from mapping.chip.check import check_segment
from mapping.chip.segment import ChipSegment
from mapping.chip.serial import unpack

Arrays = dict[str, NDArray[Any]]


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options = _options(arguments)
    try:
        _run(options.name, options.input, options.output, options.timeout)
    except Has8Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def read_mapping(path: Path) -> tuple[list[ChipSegment], Any]:
    """The chip segments and the registers of a saved mapping, with NumPy alone.

    Returns:
        The segments, and a namespace with the attributes of
        ``mapping.targets.schema.Registers``.

    Raises:
        BackendError: if the file is missing, is no has8 artefact, or is damaged.
    """
    with _opened(path, "mapped model", "write it with has8-map"):
        content, arrays = read(path)
        manifest = json.loads(content)
        # files from before graded spikes do not say how wide a payload may be
        registers = SimpleNamespace(**{"message_bits": 1, **manifest["target"]["registers"]})
        segments = [unpack(chip, arrays) for chip in manifest["chip_segments"]]
        for segment in segments:
            check_segment(segment, registers)  # type: ignore[arg-type]
    return segments, registers


def read_inputs(path: Path, segments: Sequence[ChipSegment]) -> dict[str, Arrays]:
    """The input spikes, ``[T, N, *shape]`` by segment and port, of every segment that has all.

    Raises:
        BackendError: if the file is missing or damaged, holds no segment's inputs, or inputs of
            another type or shape.
    """
    found: dict[str, Arrays] = {}
    missing = ""
    hint = "write it with has8 simulate --record spikes"
    with _opened(path, ".npz of spikes", hint), open_regular(path) as file, np.load(file) as stored:
        for segment in segments:
            keys = {port.name: f"{segment.name}/inputs/{port.name}" for port in segment.inputs}
            if absent := [key for key in keys.values() if key not in stored.files]:
                missing = missing or absent[0]
            else:
                found[segment.name] = {name: stored[key] for name, key in keys.items()}
    if not found:
        raise BackendError(
            f"{path} holds the inputs of no chip segment: expected arrays like {missing!r}, as "
            "has8 simulate --record spikes writes them"
        )
    for segment in segments:
        if segment.name in found:
            _check_inputs(segment, found[segment.name])
    return found


def _options(arguments: Sequence[str]) -> Any:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            self.exit(1, f"error: {message}: see python -m hwsim.backends.lava --help\n")

    def seconds(text: str) -> float:
        value = float(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    parser = Parser(
        "python -m hwsim.backends.lava",
        description="Run the chip segments of a mapped model in Lava, without torch.",
    )
    parser.add_argument("name", metavar="NAME.h8", type=Path, help="A mapping of has8-map.")
    parser.add_argument(
        "input",
        metavar="INPUT.npz",
        type=Path,
        help="SEGMENT/inputs/PORT, bool[T, N, *shape], or int64[N, *shape] where it is biases; "
        "has8 simulate --record spikes writes it.",
    )
    parser.add_argument(
        "output",
        metavar="OUTPUT.npz",
        type=Path,
        help="Gets SEGMENT/spikes/POPULATION, bool[T, N, *shape], of every segment with inputs.",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=600.0,
        metavar="SECONDS",
        help="The longest that one segment may take.  [default: %(default)g]",
    )
    return parser.parse_args(arguments)


def _run(name: Path, inputs: Path, output: Path, timeout_s: float) -> None:
    segments, registers = read_mapping(name)
    given = read_inputs(inputs, segments)
    taken = output.exists() and (
        not output.is_file() or output.samefile(name) or output.samefile(inputs)
    )
    if taken or not os.access(output.absolute().parent, os.W_OK):
        raise BackendError(
            f"cannot write {output}: name a new file in a folder that can be written to"
        )
    for segment in segments:
        if segment.name in given:
            check_faithful(segment, registers)
    fired: Arrays = {}
    for segment in segments:
        if segment.name not in given:
            print(f"{segment.name}: skipped, {inputs} lacks inputs of it", file=sys.stderr)
            continue
        spikes, membranes = run_worker(segment, given[segment.name], timeout_s)
        fired |= {f"{segment.name}/spikes/{key}": array for key, array in spikes.items()}
        fired |= {f"{segment.name}/membranes/{key}": array for key, array in membranes.items()}
        values = sum(array.size for array in spikes.values())
        samples = next(iter(spikes.values())).shape[1]
        print(f"{segment.name}: {samples} samples, {values:,} spike values", flush=True)
    write_whole(output, lambda file: np.savez_compressed(file, **fired))


@contextlib.contextmanager
def _opened(path: Path, kind: str, hint: str) -> Any:
    """Turn whatever reading a foreign file can raise into one sentence."""
    try:
        yield
    except OSError as error:
        raise BackendError(f"cannot read {path} ({error.strerror or error}): {hint}") from None
    except Exception as error:  # a broken archive can raise anything
        said = f"no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
        raise BackendError(f"{path} is no {kind} or is damaged ({said}): {hint}") from None


def _check_inputs(segment: ChipSegment, inputs: Arrays) -> None:
    first = segment.inputs[0]
    samples = (inputs[first.name].shape[first.kind == "spikes" :] or (0,))[0]
    for port in segment.inputs:
        spikes = inputs[port.name]
        kind, axes, time = port.payload.kind, "T, N", f"{segment.steps}, N"
        want: tuple[int, ...] = (segment.steps, samples, *port.shape)
        if port.kind == "bias":
            kind, axes, time, want = "int64", "N", "N", (samples, *port.shape)
        if str(spikes.dtype) != kind or spikes.shape != want or 0 in want:
            raise BackendError(
                f"{segment.name}/inputs/{port.name} is {spikes.dtype}{list(spikes.shape)}, "
                f"expected {kind}[{axes}, *shape] = {kind}[{time}, "
                f"{', '.join(map(str, port.shape))}] with the same N > 0 for all of a segment's"
            )
