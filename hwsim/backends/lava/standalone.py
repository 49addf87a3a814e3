"""``python -m hwsim.backends.lava``: the chip segments of a saved mapping in Lava, from spikes in a file.

For environments that have Lava and nothing else of what has8 needs. So the mapping is read here
with NumPy alone (``mapping/artifact.py`` writes it), and errors are one sentence on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from hwsim.backends.lava.backend import run_worker
from hwsim.backends.lava.isolate import IsolatedError
from hwsim.backends.lava.limits import check_faithful

Arrays = dict[str, NDArray[Any]]

FORMAT, VERSION = "has8-mapped", 2
"""The artefact that is read here; ``mapping.artifact`` has the same."""

INTEGERS = {f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}
"""NumPy's names of safetensors' integer types."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options = _options(arguments)
    try:
        _run(options.name, options.input, options.output, options.timeout)
    except IsolatedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def read_mapping(path: Path) -> tuple[list[Any], Any]:
    """The chip segments and the registers of a saved mapping, with NumPy alone.

    Returns:
        Namespaces with the attributes of ``mapping.chip.segment.ChipSegment`` and
        ``mapping.targets.schema.Registers``.

    Raises:
        IsolatedError: if the file is missing, is no has8 artefact, or is damaged.
    """
    with _opened(path, "mapped model", "write it with has8-map"), zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
            raise ValueError(
                f"{manifest['format']!r} version {manifest['version']}, and this has8 reads "
                f"version {VERSION}"
            )
        arrays = _chip_arrays(archive.read("tensors.safetensors"))
        registers = SimpleNamespace(**manifest["target"]["registers"])
        return [_segment(chip, arrays) for chip in manifest["chips"]], registers


def read_inputs(path: Path, segments: Sequence[Any]) -> dict[str, Arrays]:
    """The input spikes, ``bool[T, N, *shape]`` by segment and port, of every segment that has all.

    Raises:
        IsolatedError: if the file is missing or damaged, holds no segment's inputs, or inputs of
            another type or shape.
    """
    found: dict[str, Arrays] = {}
    missing = ""
    hint = "write it with has8 simulate --record spikes"
    with _opened(path, ".npz of spikes", hint), np.load(path) as stored:
        for segment in segments:
            keys = {port.name: f"{segment.name}/inputs/{port.name}" for port in segment.inputs}
            if absent := [key for key in keys.values() if key not in stored.files]:
                missing = missing or absent[0]
            else:
                found[segment.name] = {name: stored[key] for name, key in keys.items()}
    if not found:
        raise IsolatedError(
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
        help="SEGMENT/inputs/PORT, bool[T, N, *shape]; has8 simulate --record spikes writes it.",
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
        raise IsolatedError(
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
        spikes = run_worker(segment, given[segment.name], timeout_s)
        fired |= {f"{segment.name}/spikes/{key}": array for key, array in spikes.items()}
        values = sum(array.size for array in spikes.values())
        samples = next(iter(spikes.values())).shape[1]
        print(f"{segment.name}: {samples} samples, {values:,} spike values", flush=True)
    _write_whole(output, lambda file: np.savez_compressed(file, **fired))


@contextlib.contextmanager
def _opened(path: Path, kind: str, hint: str) -> Any:
    """Turn whatever reading a foreign file can raise into one sentence."""
    try:
        yield
    except OSError as error:
        raise IsolatedError(f"cannot read {path} ({error.strerror or error}): {hint}") from None
    except Exception as error:  # a broken archive can raise anything
        said = f"no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
        raise IsolatedError(f"{path} is no {kind} or is damaged ({said}): {hint}") from None


def _chip_arrays(content: bytes) -> Arrays:
    """The arrays of the chip segments from a safetensors file.

    Source: the format's description, https://github.com/huggingface/safetensors: eight bytes with
    the header's length, a header in JSON, and the tensors' bytes, all little-endian.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    arrays = {}
    for name, entry in json.loads(content[8:start]).items():
        if name.startswith("chip/"):
            first, last = entry["data_offsets"]
            flat = np.frombuffer(content[start + first : start + last], INTEGERS[entry["dtype"]])
            arrays[name] = flat.reshape(entry["shape"]).astype(np.int64)
    return arrays


def _segment(chip: Mapping[str, Any], arrays: Arrays) -> SimpleNamespace:
    populations = []
    for entry in chip["populations"]:
        name = entry["name"]
        synapses = [
            SimpleNamespace(**synapse, weight=arrays[f"chip/{name}/{place}"])
            for place, synapse in enumerate(entry["synapses"])
        ]
        constants = {key: arrays[f"chip/{name}/{key}"] for key in ("threshold", "bias")}
        populations.append(SimpleNamespace(**{**entry, "synapses": synapses, **constants}))
    ports = [SimpleNamespace(**port) for port in chip["inputs"]]
    return SimpleNamespace(**{**chip, "inputs": ports, "populations": populations})


def _check_inputs(segment: Any, inputs: Arrays) -> None:
    samples = next(iter(inputs.values())).shape[1:2]
    for port in segment.inputs:
        spikes = inputs[port.name]
        want = (segment.steps, *samples, *port.shape)
        if spikes.dtype != bool or spikes.shape != want or 0 in want:
            raise IsolatedError(
                f"{segment.name}/inputs/{port.name} is {spikes.dtype}{list(spikes.shape)}, "
                f"expected bool[T, N, *shape] = bool[{segment.steps}, N, "
                f"{', '.join(map(str, port.shape))}] with the same N > 0 for all of a segment's"
            )


def _write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that its name holds the old content or the new, never a part.

    ``has8.training.checkpoint`` has the same, but imports torch.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with draft.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise IsolatedError(
            f"cannot write {path} ({error.strerror or error}): choose another place"
        ) from None
