"""Sheets: YAML files of figures that say where they come from.

On any mapping of such a file the two keys ``source`` and ``trust`` speak for every entry below
them. A single entry may be written ``{value: 23.6, source: "Davies 2018", trust: Q}``, and a price
also with a range: ``{value: 104.4, low: 29.7, high: 178.0, source: ..., trust: ...}``.

Reading gives typed, frozen structures. Prices, powers and times are figures that know their source;
limits are plain numbers, and their citations stand beside them by path.
"""

from __future__ import annotations

import collections.abc
import reprlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml

from has8.errors import BadInput, TargetError, UnknownName
from has8.reading import open_regular
from has8.values import described
from mapping.targets.figures import Figure, Trust

LONGEST = 10**6
"""Bytes of the longest file that is read."""

LARGEST = 2**48
"""No number of a sheet is larger: products of a few stay finite, and integers within int64."""

Natural = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=LARGEST)]
NonNegative = Annotated[float, msgspec.Meta(ge=0, le=LARGEST)]
AboveZero = Annotated[float, msgspec.Meta(ge=1e-15, le=LARGEST)]
AtLeastOne = Annotated[float, msgspec.Meta(ge=1, le=LARGEST)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


@dataclass(frozen=True, slots=True)
class Unit:
    """What a figure of a schema is measured in: ``Annotated[Figure, Unit("pJ", NonNegative)]``.

    Args:
        name: such as "pJ"; empty for a pure number.
        kind: a type of plain numbers with the range that value, low and high must keep.
    """

    name: str
    kind: Any


Picojoules = Annotated[Figure, Unit("pJ", NonNegative)]
Nanoseconds = Annotated[Figure, Unit("ns", NonNegative)]
Microseconds = Annotated[Figure, Unit("µs", NonNegative)]
Microjoules = Annotated[Figure, Unit("µJ", NonNegative)]
Milliwatts = Annotated[Figure, Unit("mW", NonNegative)]


class Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of all structures that are read from such files."""


class Citation(Data, frozen=True, kw_only=True):
    """Where an entry comes from, and how far to trust it."""

    source: str
    trust: Trust


class Sheet(Data, frozen=True, kw_only=True):
    """A whole file.

    Making one, in whatever way, gives each figure in it the sheet's name and its own path, and
    enters its source and trust among the citations.

    Args:
        name: of what it describes.
        description: one line.
        caveats: what a reader of any result should know.
        references: full titles of the short names that sources use.
        citations: source and trust by the entry's path, such as ``registers.state_bits``.

    Raises:
        ValueError: if a figure has another unit than its place, or is out of range.
    """

    name: str
    description: str
    caveats: tuple[str, ...] = ()
    references: Mapping[str, str] = {}
    citations: Mapping[str, Citation] = {}

    def __post_init__(self) -> None:
        """Give each figure its place."""
        citations = dict(self.citations)
        for name, hint in _hints(type(self)).items():
            if name == "citations":
                continue
            placed = _place(getattr(self, name), hint, name, self.name, citations)
            msgspec.structs.force_setattr(self, name, placed)
        msgspec.structs.force_setattr(self, "citations", citations)


MOST_PROBLEMS = 20
"""Entries that one message names."""

SheetT = TypeVar("SheetT", bound=Sheet)


def figures_of(value: object) -> Iterator[Figure]:
    """Every figure of a sheet or of a part of it, in its order."""
    if isinstance(value, Figure):
        yield value
    elif isinstance(value, Data):
        for name in value.__struct_fields__:
            yield from figures_of(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from figures_of(item)


def with_figures(value: Any, change: Callable[[Figure], Figure]) -> Any:
    """A sheet, or a part of one, in which each figure is what ``change`` makes of it."""
    if isinstance(value, Figure):
        return change(value)
    if isinstance(value, Data):
        parts = {name: getattr(value, name) for name in value.__struct_fields__}
        made = {name: with_figures(part, change) for name, part in parts.items()}
        changed = {name: part for name, part in made.items() if part is not parts[name]}
        return msgspec.structs.replace(value, **changed) if changed else value
    if isinstance(value, Mapping):
        entries = {key: with_figures(item, change) for key, item in value.items()}
        return entries if any(entries[key] is not item for key, item in value.items()) else value
    return value


def load_sheet(kind: type[SheetT], path: Path) -> SheetT:
    """Read a file.

    Args:
        kind: the structure that its top level has.
        path: of the YAML file.

    Raises:
        TargetError: if it is missing, no YAML, or an entry is missing, unknown, of the wrong
            type or out of range; the message has the entry's path within the file.
    """
    try:
        with open_regular(path) as file:
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise TargetError(f"{path}: is longer than {LONGEST:,} bytes, no description is")
        raw = yaml.load(content.decode("utf-8"), Loader=_Loader)
    except OSError as error:
        raise TargetError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise TargetError(f"{path}: is not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise TargetError(f"{path}:{line} {problem}") from None
    except RecursionError:
        raise TargetError(f"{path}: is nested deeper than any description") from None
    except (TypeError, ValueError) as error:  # odd keys, dates
        raise TargetError(f"{path}: is not YAML that can be read ({error})") from None
    citations: dict[str, Citation] = {}
    try:
        sheet = _read(kind, raw, "", None, citations)
    except _EntryError as wrong:
        raise TargetError(f"{path}: {wrong}") from None
    read: SheetT = msgspec.structs.replace(sheet, citations=citations)
    return read


def find_sheet(kind: type[SheetT], word: str, folder: Path, name_or_path: str | Path) -> SheetT:
    """Read a bundled file by its name, or any file by its path.

    Args:
        kind: the structure that its top level has.
        word: what it describes, for messages ("target").
        folder: where the bundled ones lie.
        name_or_path: what ends in ``.yaml`` or ``.yml`` or holds a separator is a path.

    Raises:
        UnknownName: if none is called so.
        BadInput: if it is neither a name nor a path.
        TargetError: if the file is missing or wrong; the message has the path of the entry.
    """
    text = str(name_or_path) if isinstance(name_or_path, Path) else name_or_path
    if not isinstance(text, str):
        raise BadInput(f"expected the name of a {word}, or a path, not {described(text)}")
    if text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text:
        return load_sheet(kind, Path(text))
    if text not in sheet_names(folder):
        raise UnknownName(word, text, sheet_names(folder))
    bundled: SheetT = _bundled(kind, folder / f"{text}.yaml")
    return bundled


@lru_cache
def _bundled(kind: type[SheetT], path: Path) -> SheetT:
    """A file of the package, which does not change while it runs."""
    return load_sheet(kind, path)


def sheet_names(folder: Path) -> list[str]:
    """Names of the files in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


class _EntryError(ValueError):
    """An entry and what is wrong with it."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.problems = [str(self)]


class _Problems:
    """What is wrong with several entries, so that all of it can be told at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Note what is wrong with an entry that is read in the body."""
        try:
            yield
        except _EntryError as wrong:
            self.found += wrong.problems

    def check(self) -> None:
        """Raise all that was noted, if anything was."""
        if self.found:
            shown, rest = self.found[:MOST_PROBLEMS], len(self.found) - MOST_PROBLEMS
            error = _EntryError("", "; ".join(shown) + (f"; and {rest} more" if rest > 0 else ""))
            error.problems = self.found
            raise error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which would silently keep the last of two equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read(
    kind: Any, raw: object, path: str, cite: Citation | None, citations: dict[str, Citation]
) -> Any:
    """``raw`` as a value of type ``kind``; enters the citations of plain values."""
    if isinstance(raw, dict):
        raw, cite = _peel(raw, path, cite)
    bare, unit = _bare(kind)
    if unit is not None:
        return _read_figure(unit, raw, path, cite)
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        return _read_struct(bare, _mapping(raw, path), path, cite, citations)
    if get_origin(bare) is collections.abc.Mapping:
        of_key, of_value = get_args(bare)
        read, problems = {}, _Problems()
        for key, item in _mapping(raw, path).items():
            with problems.gathered():
                place = _leaf(of_key, key, path)
                read[place] = _read(of_value, item, _join(path, key), cite, citations)
        problems.check()
        if kind is not bare and not read:
            raise _EntryError(path, "needs at least one entry")
        return read
    if isinstance(raw, dict) and raw.keys() <= {"value", "low", "high"}:
        raise _EntryError(path, "is a limit and takes no range; leave out low and high")
    value = _leaf(kind, raw, path)
    if cite is not None and not isinstance(value, str):
        citations[path] = cite
    return value


def _read_figure(unit: Unit, raw: object, path: str, cite: Citation | None) -> Figure:
    entry = raw if isinstance(raw, dict) else {"value": raw}
    for key in entry:
        if key not in ("value", "low", "high"):
            known = "value, low, high, source, trust"
            raise _EntryError(_join(path, key), f"unknown key, known are {known}")
    if "value" not in entry:
        raise _EntryError(_join(path, "value"), "is missing; add it")
    places = {"value": path, "low": _join(path, "low"), "high": _join(path, "high")}
    numbers = {key: _number(unit, item, places[key]) for key, item in entry.items()}
    value = numbers["value"]
    low, high = numbers.get("low", value), numbers.get("high", value)
    try:
        cited = cite or Citation(source="", trust="M")
        return Figure(value, low, high, unit.name, cited.source, cited.trust)
    except ValueError as error:
        raise _EntryError(path, str(error)) from None


def _read_struct(
    kind: type[msgspec.Struct],
    raw: dict[Any, Any],
    path: str,
    cite: Citation | None,
    citations: dict[str, Citation],
) -> Any:
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    fields.pop("citations", None)
    hints, problems, values = _hints(kind), _Problems(), dict[str, Any]()
    for key in raw:
        with problems.gathered():
            if key not in fields:
                near = get_close_matches(str(key), fields, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(fields)}"
                raise _EntryError(_join(path, key), f"unknown key, {hint}")
    for name, field in fields.items():
        with problems.gathered():
            if field.required and name not in raw:
                raise _EntryError(_join(path, name), "is missing; add it")
            if name in raw:
                values[name] = _read(hints[name], raw[name], _join(path, name), cite, citations)
    problems.check()
    try:
        return kind(**values)
    except ValueError as error:
        raise _EntryError(path, str(error)) from None


def _peel(raw: dict[Any, Any], path: str, cite: Citation | None) -> tuple[object, Citation | None]:
    """The mapping without its ``source`` and ``trust``, or the bare value, and the citation."""
    rest = {key: item for key, item in raw.items() if key not in ("source", "trust")}
    if len(rest) < len(raw):
        inherited = {"source": cite.source, "trust": cite.trust} if cite else {}
        own = {key: raw[key] for key in raw if key not in rest}
        cite = _leaf(Citation, {**inherited, **own}, path)
    return (rest["value"] if set(rest) == {"value"} else rest), cite


def _place(value: Any, kind: Any, path: str, sheet: str, citations: dict[str, Citation]) -> Any:
    """The value with sheet and path in each of its figures; enters their citations."""
    bare, unit = _bare(kind)
    if value is None:
        return value
    if unit is not None:
        return _place_figure(value, unit, path, sheet, citations)
    if isinstance(value, Data):
        hints = _hints(type(value))
        parts = {name: getattr(value, name) for name in hints}
        placed = {
            n: _place(p, hints[n], _join(path, n), sheet, citations) for n, p in parts.items()
        }
        same = all(placed[name] is part for name, part in parts.items())
        return value if same else msgspec.structs.replace(value, **placed)
    if get_origin(bare) is collections.abc.Mapping:
        of_value = get_args(bare)[1]
        entries = {
            key: _place(item, of_value, _join(path, key), sheet, citations)
            for key, item in value.items()
        }
        return value if all(entries[key] is item for key, item in value.items()) else entries
    return value


def _place_figure(
    figure: object, unit: Unit, path: str, sheet: str, citations: dict[str, Citation]
) -> Figure:
    if not isinstance(figure, Figure):
        raise _EntryError(path, f"expected a Figure, found {figure!r}; write Figure.exact(...)")
    if figure.unit != unit.name:
        raise _EntryError(path, f"is in {unit.name or 'no unit'}, not in {figure.unit or 'none'}")
    for number in {figure.value, figure.low, figure.high}:
        _number(unit, number, path)
    citations.pop(path, None)
    if figure.source:
        citations[path] = Citation(source=figure.source, trust=figure.trust)
    if (figure.sheet, figure.path, figure.leaves) == (sheet, path, frozenset()):
        return figure
    return msgspec.structs.replace(figure, sheet=sheet, path=path, leaves=frozenset())


@lru_cache
def _hints(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The types of a structure's fields, with what annotates them."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: hints[name] for name in kind.__struct_fields__}


@lru_cache
def _bare(kind: Any) -> tuple[Any, Unit | None]:
    """A type without its annotation and without "or None", and its unit if it is a figure."""
    if get_origin(kind) in (Union, UnionType):
        kind = next((option for option in get_args(kind) if option is not type(None)), kind)
    if get_origin(kind) is not Annotated:
        return kind, None
    bare, *notes = get_args(kind)
    return bare, next((note for note in notes if isinstance(note, Unit)), None)


def _mapping(raw: object, path: str) -> dict[Any, Any]:
    if not isinstance(raw, dict):
        raise _EntryError(path, f"expected a mapping of names to entries, found {_short(raw)}")
    return raw


def _number(unit: Unit, raw: Any, path: str) -> float:
    """A number of a figure, as a float even where it must be whole."""
    if isinstance(raw, float) and not isfinite(raw):
        raise _EntryError(path, f"must be a finite number, found {raw}")
    whole = isinstance(raw, float) and raw.is_integer()
    return float(_leaf(unit.kind, int(raw) if whole else raw, path))


def _leaf(kind: Any, raw: object, path: str) -> Any:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        hint = ""
        if isinstance(raw, str) and _is_number(raw):
            hint = f"; YAML takes this for text, write {float(raw)!r}"
        raise _EntryError(path, f"{error}, found {_short(raw)}{hint}".replace("`", "")) from None


def _short(raw: object) -> str:
    """A value in a few words, though an alias within aliases may stand for gigabytes."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 80, 80
    return short.repr(raw)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
