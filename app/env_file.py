"""`.env` as people write it: the values in it, or one line that says what to mend.

Read as compose reads it, as far as one file can serve both: `${NAME}` is replaced, single quotes keep a value as it is.
What compose and python-dotenv make empty or pass over is kept or refused here: half a key is still a key.
"""

from collections import ChainMap
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from dotenv.parser import Binding, parse_stream
from dotenv.variables import Variable, parse_variables

from app.errors import Refused

LARGEST = 1024 * 1024
"""Bytes of a `.env`; what is larger is something else, or has no end."""


def read(path: Path, environment: Mapping[str, str]) -> dict[str, str | None]:
    """Each name in the file with its value, of several the last; nothing where there is no file.

    `${NAME}` means the one in `environment`, else the one further up, else itself. Raises Refused, quoting no value.
    """
    values: dict[str, str | None] = {}
    known = ChainMap[str, str | None](dict(environment), values)
    for binding in parse_stream(StringIO(_text(path))):
        if binding.error:
            raise Refused(f"{path} line {_line(binding)} is not NAME=value, or its quotes do not match")
        if binding.key is not None:
            values[binding.key] = _value(binding, known)
    return values


def _value(binding: Binding, known: Mapping[str, str | None]) -> str | None:
    written = binding.original.string.partition("=")[2].lstrip()
    if binding.value is None or written.startswith("'"):
        return binding.value
    return "".join(
        f"${{{part.name}}}"
        if isinstance(part, Variable) and part.name not in known and part.default is None
        else part.resolve(known)
        for part in parse_variables(binding.value)
    )


def _line(binding: Binding) -> int:
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _text(path: Path) -> str:
    try:
        if path.is_symlink() and not path.exists():
            raise Refused(f"{path} is a link that leads nowhere: remove it, or copy .env.example to .env")
        if not path.exists():
            return ""
        if not path.is_file():  # opening a named pipe would wait for a writer
            raise Refused(f"{path} is not a file: remove it, or copy .env.example to .env")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > LARGEST:
        raise Refused(f"{path} is larger than {LARGEST >> 20} MiB: remove it, or copy .env.example to .env")
    try:
        text = content.decode("utf-8-sig")  # Windows editors put a byte order mark in front
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without a mark is UTF-8 with these
        raise Refused(f"{path} is not UTF-8 text: save it again as UTF-8")
    return text
