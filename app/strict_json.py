"""JSON as this service accepts and stores it.

What is parsed here can be stored in PostgreSQL and read back equal: no U+0000, no lone surrogate, no number
that changes, no nesting that another reader could not follow. orjson does nearly all of the work. It is not
asked where it would be wrong or silent (it turns 12345678901234567890123 into a float, takes 1,024 levels and
cannot tell which field holds the fault): then the standard library parses, and a walk names the field.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import islice, takewhile
from typing import Any, NamedTuple, NewType

import orjson

from app.errors import Fault, Invalid, MalformedJson

JsonText = NewType("JsonText", str)
"""A JSON value as text, checked, as PostgreSQL's json type stores it and a response carries it."""


class Json(NamedTuple):
    """A JSON value that was sent: parsed, for its fingerprint, and as the text that is stored."""

    value: Any
    text: JsonText


EMPTY_OBJECT = Json({}, JsonText("{}"))

MAX_DEPTH = 100
MAX_DIGITS = 1_000

# What one pass in C can tell of 16 MiB is told before anything is parsed; an expression would take 0.5 s for it.
_KEPT = dict(zip(b"0123456789eE-", b"0000000000ee-", strict=True))
_AS_NUMBERS = bytes(_KEPT.get(byte, ord(" ")) for byte in range(256))
_LONG_NUMBER = b"0" * 19
_SMALL_NUMBER = b"e-000"
_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)
_MOST_TOKENS = 100_000
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class _OutOfRange:
    """Stands where the parser met a number that cannot be kept."""


def parse(raw: bytes | bytearray, *, envelope: int = 1) -> Any:
    """The value in `raw`; containers may nest MAX_DEPTH deep below the `envelope` levels of the body itself.

    Raises MalformedJson where `raw` is not JSON in UTF-8, and Invalid (`unstorable_text`,
    `number_out_of_range`, `too_deep`) with the field where it is JSON that cannot be kept.
    """
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if _nests_deeper(raw, MAX_DEPTH + envelope):
        field = _too_deep(_decode(raw), envelope)
        raise Invalid(Fault("body", field, "too_deep", f"nests deeper than {MAX_DEPTH} levels"))
    numbers = raw.translate(_AS_NUMBERS)
    if b"\\u0000" not in raw and _LONG_NUMBER not in numbers and _SMALL_NUMBER not in numbers:
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError:
            pass  # the slow way says which field, or that this is no JSON
    return _parse_slowly(_decode(raw))


def dumps(value: Any) -> JsonText:
    """`value` as compact JSON text. Equal values give equal text, key order aside."""
    try:
        return JsonText(orjson.dumps(value).decode())
    except TypeError:  # an integer of more than 64 bits
        return JsonText(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def loads(text: str) -> Any:
    """The value of a JSON text that is stored, its integers of any length."""
    return json.loads(text)


def canonical(value: Any) -> bytes:
    """`value` as JSON bytes in which key order makes no difference: what a fingerprint is taken of."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def same(one: str, other: str) -> bool:
    """Whether two JSON texts hold the same value, key order aside; 1 and 1.0 differ."""
    return one == other or canonical(loads(one)) == canonical(loads(other))


def fingerprint(value: Any) -> bytes:
    """16 bytes that tell `value` from any other; kept with a row, they tell a repeat from a conflict."""
    return hashlib.sha256(canonical(value)).digest()[:16]


def pointer(steps: tuple[str | int, ...]) -> str:
    """The JSON Pointer (RFC 6901) of a path of keys and indexes."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can hold `text`: no U+0000 and no half of a surrogate pair."""
    return _UNSTORABLE.search(text) is None


def _decode(raw: bytes | bytearray) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise MalformedJson("is not UTF-8") from None


def _parse_slowly(text: str) -> Any:
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise MalformedJson(f"is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    for path, fault in _faults(value):
        raise Invalid(Fault("body", pointer(path), *fault))
    return value


def _nests_deeper(raw: bytes | bytearray, levels: int) -> bool:
    """Whether containers nest deeper than `levels`, told before a recursive parser meets them."""
    if raw.count(b"[") + raw.count(b"{") <= levels:
        return False
    unescaped = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    brackets = b"".join(unescaped.split(b'"')[::2]).translate(_AS_BRACKETS, _NO_BRACKET)
    for _ in range(levels):
        brackets = brackets.replace(b"[]", b"")  # each pass removes the innermost level
    return b"[" in brackets


def _too_deep(text: str, envelope: int) -> str:
    """The pointer of the first container that is too deep, as far as the `envelope`: the field that a caller knows.

    Told without parsing, so the items of a list are counted by the containers among them, and behind the first
    100,000 tokens (0.1 s) nothing is told.
    """
    depth = 0
    path: list[str | int] = []  # one step for each open container of the envelope
    for match in islice(_TOKEN.finditer(text), _MOST_TOKENS):
        found = match.group()
        if found in "]}":
            depth -= 1
            del path[max(depth, 0) :]
        elif found in "[{":
            if depth > MAX_DEPTH + envelope - 1:
                break
            if depth == len(path) and path and isinstance(path[-1], int):
                path[-1] += 1
            depth += 1
            if depth == len(path) + 1 <= envelope:
                path.append(-1 if found == "[" else "")
        elif depth == len(path) > 0 and text[match.end() : match.end() + 64].lstrip().startswith(":"):
            path[-1] = json.loads(found, strict=False)
    else:
        return ""
    steps = tuple(takewhile(lambda step: step != "" and is_storable(str(step)), path))
    return pointer(steps)


def _integer(digits: str) -> int | _OutOfRange:
    return int(digits) if len(digits.lstrip("-")) <= MAX_DIGITS else _OutOfRange()


def _float(digits: str) -> float | _OutOfRange:
    value = float(digits)
    lost = value == 0 and re.search("[1-9]", digits.lower().partition("e")[0])  # 1e-400 is no zero
    return _OutOfRange() if lost or value in (float("inf"), float("-inf")) else value


def _refuse_constant(name: str) -> None:
    raise MalformedJson(f"is not JSON: {name} is no JSON value")


_TEXT_FAULT = ("unstorable_text", "holds U+0000 or a lone surrogate")
_NUMBER_FAULT = ("number_out_of_range", f"is beyond a finite double or an integer of {MAX_DIGITS} digits")


def _faults(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], tuple[str, str]]]:
    """Every fault below `value` with its path; where a key itself is at fault, the path of its object."""
    if isinstance(value, str):
        if not is_storable(value):
            yield path, _TEXT_FAULT
    elif isinstance(value, _OutOfRange):
        yield path, _NUMBER_FAULT
    elif isinstance(value, dict):
        for key, member in value.items():
            if is_storable(key):
                yield from _faults(member, (*path, key))
            else:
                yield path, _TEXT_FAULT
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _faults(item, (*path, index))
