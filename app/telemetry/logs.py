"""One log configuration for the app, uvicorn, SQLAlchemy and Alembic: one physical line per record.

A line is forged by whoever gets a line break into it, so control characters are escaped. An exception is
logged by type and frames, never by its text: PostgreSQL quotes parameters, and parameters are messages.
"""

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from app.errors import Refused

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The request that the current task serves; on every line that is logged meanwhile."""

FIELDS = ("method", "route", "status", "duration_ms", "client")
"""What an access line adds to a record (by logging's `extra`)."""

_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
_NOISY = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "sqlalchemy", "alembic", "slowapi")


def configure(*, level: str, style: Literal["text", "json"], file: Path | None) -> None:
    """Send every logger's records to the console and to `file`. Raises Refused if `file` cannot be opened."""
    formatter = JsonFormatter() if style == "json" else TextFormatter()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file is not None:
        handlers.append(LineFile(file))
    for handler in handlers:
        handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, LineFile) or type(old) is logging.StreamHandler:
            root.removeHandler(old)
            old.close()
    root.handlers.extend(handlers)
    root.setLevel(level)
    for name in _NOISY:  # uvicorn configures its own loggers before it imports us
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    logging.getLogger("uvicorn.access").disabled = True  # ours has the request id, the route and the duration
    for name in ("sqlalchemy", "alembic"):  # at INFO they log every statement
        logging.getLogger(name).setLevel(logging.WARNING)


class LineFile(logging.Handler):
    """A log file that several processes share: O_APPEND, one write per line, reopened when it was renamed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._open()
        except OSError as error:
            raise Refused(
                f"LOG_FILE {path} cannot be opened ({error.strerror}): name a writable file, or leave it empty for none"
            ) from None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            self._follow_rename()
            os.write(self._descriptor, line)
        except Exception:  # noqa: BLE001 - a log that cannot be written never fails a request
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Nothing: the console has the same line."""

    def close(self) -> None:
        os.close(self._descriptor)
        super().close()

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o640)

    def _follow_rename(self) -> None:
        opened = os.fstat(self._descriptor)
        try:
            named = os.stat(self._path)  # noqa: PTH116 - twice as fast as Path.stat, on every line
        except FileNotFoundError:
            named = None
        if named is None or (named.st_ino, named.st_dev) != (opened.st_ino, opened.st_dev):
            fresh = self._open()
            os.close(self._descriptor)
            self._descriptor = fresh


class TextFormatter(logging.Formatter):
    """`time level logger request_id message`, for people."""

    def format(self, record: logging.LogRecord) -> str:
        return escape(
            f"{_time(record)} {record.levelname} {record.name} {request_id.get()} "
            + " ".join(filter(None, (record.getMessage(), *_access(record), _frames(record))))
        )


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "request_id": request_id.get(),
            "message": record.getMessage(),
        }
        line |= {field: getattr(record, field) for field in FIELDS if hasattr(record, field)}
        if frames := _frames(record):
            line["exception"] = frames
        return json.dumps(line, default=str)


def escape(text: str) -> str:
    """`text` with every control character spelled out, so that it stays on its line."""
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _access(record: logging.LogRecord) -> Iterable[str]:
    units = {"duration_ms": "ms"}
    return (f"{getattr(record, field)}{units.get(field, '')}" for field in FIELDS if hasattr(record, field))


def _frames(record: logging.LogRecord) -> str:
    """The exception of `record` as type and frames, innermost last, causes behind it; never its text."""
    error = record.exc_info[1] if record.exc_info else None
    parts = []
    while error is not None:
        frames = (f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__))
        parts.append(f"{type(error).__module__}.{type(error).__qualname__} at {' > '.join(frames)}")
        error = error.__cause__ or error.__context__
    return "; caused by ".join(parts)
