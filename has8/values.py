"""Plain values that callers give: of a type and in a range, else refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any, get_type_hints

from has8.errors import BadInput

Rules = Mapping[str, tuple[Callable[[Any], bool], str]]
"""For the name of each field, a test of its value, and in words what it must be."""


def check_fields(owner: object, rules: Rules) -> None:
    """Hold the fields of a settings object to their types and rules; NumPy's become Python's.

    Args:
        owner: the object that has the fields, of a class that says their types.
        rules: a field whose type has None may be None whatever its rule.

    Raises:
        BadInput: for the first field of another type, or whose rule does not hold.
    """
    hints = get_type_hints(type(owner))
    for name, (holds, expected) in rules.items():
        given = getattr(owner, name)
        try:
            found = value(given, hints[name], name)
        except BadInput:
            fits = False
        else:
            fits = found is None or holds(found)
        if not fits:
            raise BadInput(f"{name} must be {expected}, not {described(given)}")
        object.__setattr__(owner, name, found)


def value(x: Any, kind: Any, what: str) -> Any:
    """A plain value of some type; NumPy's numbers become Python's.

    Args:
        x: anything.
        kind: a type that msgspec knows, such as ``int`` or ``Sequence[float]``.
        what: what it is, for messages.

    Raises:
        BadInput: if it is of another type or out of range.
    """
    import msgspec  # which the interpreter that runs Lava may not have

    try:
        return msgspec.convert(without_numpy(x), kind)
    except msgspec.ValidationError as error:
        problem = str(error).replace("`", "")
        raise BadInput(f"{what}: {problem}, found {described(x)}") from None


def whole(x: Any, what: str, least: int) -> int:
    """A whole number that is not too small.

    Args:
        x: anything.
        what: what it is, for messages.
        least: the smallest that it may be.

    Raises:
        BadInput: if it is none.
    """
    plain = without_numpy(x)
    if type(plain) is not int or plain < least:
        raise BadInput(f"{what} must be a whole number of at least {least}, not {described(x)}")
    return plain


def seconds(x: Any, what: str) -> float:
    """A time limit that the system's clocks can hold.

    Args:
        x: anything.
        what: what it is, for messages.

    Raises:
        BadInput: if it is no number, not above 0, or above 10**9.
    """
    plain = without_numpy(x)
    if type(plain) not in (int, float) or not 0 < plain <= 1e9:
        raise BadInput(f"{what} must be seconds above 0 and up to 10**9, not {described(x)}")
    return float(plain)


def path(value: Any, what: str) -> Path:
    """A path of a file or folder.

    Raises:
        BadInput: if it is neither a string nor a path.
    """
    if not isinstance(value, str | PathLike) or not isinstance(fspath(value), str):
        raise BadInput(f"expected the path of {what}, not {described(value)}")
    return Path(value)


def described(value: Any) -> str:
    """A value in a few words: what it is, and where it is short, which."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.tolist()
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length():,} bits"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, str) and len(value) <= 80:
        return repr(str(value))
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    kind = {"Tensor": "a tensor", "Parameter": "a tensor", "ndarray": "an array"}.get(name)
    if kind is not None:
        where = "" if name == "ndarray" or value.is_cpu else f" on {value.device}"
        return f"{kind} {str(value.dtype).removeprefix('torch.')}{list(value.shape)}{where}"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def without_numpy(value: Any) -> Any:
    """The same in Python's numbers, strings and lists; anything else stays as it is."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [without_numpy(item) for item in value]
    return value
