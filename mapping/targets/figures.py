"""Figures with sources: YAML files whose numbers say where they come from.

On any mapping of such a file the two keys ``source`` and ``trust`` speak for every figure below
them, and a single figure may be written ``{value: 23.6, source: "Davies 2018", trust: Q}``.
Reading gives typed, frozen structures of plain numbers, and the citations by path beside them.
The trust tags:

- P: read in a primary repository, notebook or log
- Q: from a primary paper, seen as quoted elsewhere
- S: from a secondary source
- D: derived or recomputed from other figures
- M: an assumption, or not verified
"""

from __future__ import annotations

import collections.abc
from collections.abc import Hashable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import yaml

from has8.errors import TargetError, UnknownName

Natural = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
AboveZero = Annotated[float, msgspec.Meta(gt=0)]
Trust = Literal["P", "Q", "S", "D", "M"]


class Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of all structures that are read from such files."""


class Citation(Data, frozen=True, kw_only=True):
    """Where a figure comes from, and how far to trust it."""

    source: str
    trust: Trust


class Sheet(Data, frozen=True, kw_only=True):
    """A whole file.

    Args:
        name: of what it describes.
        description: one line.
        caveats: what a reader of any result should know.
        references: full titles of the short names that sources use.
        citations: source and trust by the figure's path, such as ``registers.state_bits``.
    """

    name: str
    description: str
    caveats: tuple[str, ...] = ()
    references: Mapping[str, str] = {}
    citations: Mapping[str, Citation] = {}


SheetT = TypeVar("SheetT", bound=Sheet)


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
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise TargetError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise TargetError(f"{path}: is not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise TargetError(f"{path}:{line} {problem}") from None
    except (TypeError, ValueError, RecursionError) as error:  # odd keys, dates, nesting
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
        TargetError: if the file is missing or wrong; the message has the path of the entry.
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text:
        return load_sheet(kind, Path(text))
    if text not in sheet_names(folder):
        raise UnknownName(word, text, sheet_names(folder))
    return load_sheet(kind, folder / f"{text}.yaml")


def sheet_names(folder: Path) -> list[str]:
    """Names of the files in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


class _EntryError(Exception):
    """An entry and what is wrong with it."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)


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
    kind: Any, raw: object, path: str, cite: Citation | None, found: dict[str, Citation]
) -> Any:
    """``raw`` as a value of type ``kind``; enters the citations of its figures in ``found``."""
    if isinstance(raw, dict):
        raw, cite = _peel(raw, path, cite)
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        return _read_struct(bare, _mapping(raw, path), path, cite, found)
    if get_origin(bare) is collections.abc.Mapping:
        of_key, of_value = get_args(bare)
        read = {
            _leaf(of_key, key, path): _read(of_value, item, _join(path, key), cite, found)
            for key, item in _mapping(raw, path).items()
        }
        if kind is not bare and not read:
            raise _EntryError(path, "needs at least one entry")
        return read
    value = _leaf(kind, raw, path)
    if cite is not None and not isinstance(value, str):
        found[path] = cite
    return value


def _read_struct(
    kind: type[msgspec.Struct],
    raw: dict[Any, Any],
    path: str,
    cite: Citation | None,
    found: dict[str, Citation],
) -> Any:
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    fields.pop("citations", None)
    for key in raw:
        if key not in fields:
            near = get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(fields)}"
            raise _EntryError(_join(path, key), f"unknown key, {hint}")
    for name, field in fields.items():
        if field.required and name not in raw:
            raise _EntryError(_join(path, name), "is missing; add it")
    hints = get_type_hints(kind, include_extras=True)
    values = {
        name: _read(hints[name], item, _join(path, name), cite, found) for name, item in raw.items()
    }
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


def _mapping(raw: object, path: str) -> dict[Any, Any]:
    if not isinstance(raw, dict):
        raise _EntryError(path, f"expected a mapping of names to entries, found {raw!r}")
    return raw


def _leaf(kind: Any, raw: object, path: str) -> Any:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        hint = ""
        if isinstance(raw, str) and _is_number(raw):
            hint = f"; YAML takes this for text, write {float(raw)!r}"
        raise _EntryError(path, f"{error}, found {raw!r}{hint}".replace("`", "")) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
