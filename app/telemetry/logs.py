"""One log configuration for the app, uvicorn, SQLAlchemy and Alembic: one physical line per record.

A line is forged by whoever gets a line break into it, so control characters are escaped. An exception is
logged by type and frames, never by its text: PostgreSQL quotes parameters, and parameters are messages.
"""

import json
import logging
import re
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from app.telemetry.handlers import Console, LineFile

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The request that the current task serves; on every line that is logged meanwhile."""

_DEEPEST = 50
"""Causes of an exception, and frames of each, that are logged: a recursion has a thousand."""

_log = logging.getLogger("app")
_access_log = logging.getLogger("app.access")
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
_QUOTES = {"asyncio": re.compile("[^\n<]*"), "py.warnings": re.compile(r".*?:\d+: \w+|")}
"""Loggers whose messages quote values, by repr or in a warning's text, and what may be kept: all in front of it."""

_NOISY = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "sqlalchemy", "alembic", "slowapi")


def configure(*, level: str, style: Literal["text", "json"], file: Path | None) -> None:
    """Send every logger's records to the console and to `file`. Raises Refused if `file` cannot be opened."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line tells them; half a record
    formatter = JsonFormatter() if style == "json" else TextFormatter()
    root = logging.getLogger()
    console = Console()
    handlers: list[logging.Handler] = [console]
    if file is not None:
        same = (old for old in root.handlers if isinstance(old, LineFile) and old.path == file)
        shared = next(same, None) or LineFile(file, console)  # the same one says only once that the disk is full
        shared.console = console
        handlers.append(shared)
    for handler in handlers:
        handler.setFormatter(formatter)
    for old in root.handlers[:]:
        if isinstance(old, LineFile | Console) or type(old) is logging.StreamHandler:
            root.removeHandler(old)
            if old not in handlers:
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
    _catch_crashes()


def _catch_crashes() -> None:
    """Log by type and frames what Python prints with its text; a hook of somebody else's, a debugger's, stays."""
    logging.captureWarnings(capture=True)
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _crashed
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _thread_crashed
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = lambda ignored: _log.error("ignored", exc_info=ignored.exc_value)


def _crashed(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, frames)
    else:
        _log.critical("unexpected end", exc_info=error)


def _thread_crashed(crash: threading.ExceptHookArgs) -> None:
    if not issubclass(crash.exc_type, SystemExit):
        _log.error("unexpected end of a thread", exc_info=crash.exc_value)


class LineFormatter(logging.Formatter, ABC):
    """Makes the line of a record once for all handlers: console and file take the same."""

    def format(self, record: logging.LogRecord) -> str:
        made_by, line = getattr(record, "made", (None, ""))
        if made_by is not self:
            line = self.line(record)
            record.made = (self, line)
        return str(line)

    @abstractmethod
    def line(self, record: logging.LogRecord) -> str:
        """What says the record, on one line."""


class TextFormatter(LineFormatter):
    """`time level logger request_id message`, for people."""

    def line(self, record: logging.LogRecord) -> str:
        return escape(
            f"{_time(record)} {record.levelname} {record.name} {request_id.get()} "
            + " ".join(filter(None, (_message(record), *_told(_access(record)), _frames(record))))
        )


class JsonFormatter(LineFormatter):
    """One JSON object a line, for machines."""

    def line(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "request_id": request_id.get(),
            "message": _message(record),
        }
        line |= _access(record)
        if frames := _frames(record):
            line["exception"] = frames
        return json.dumps(line, default=str)


def escape(text: str) -> str:
    """`text` with every control character spelled out, so that it stays on its line."""
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def _message(record: logging.LogRecord) -> str:
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that do not fit; logging would print them
        message = f"{record.msg} (its arguments do not fit)"
    quotes = _QUOTES.get(record.name)
    kept = quotes.match(message) if quotes else None
    return kept.group() if kept else message


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def access(**said: Any) -> None:
    """Log the line of a request, of these fields in this order."""
    # Not _access_log.info(): it walks the stack for a place that no line of ours tells.
    if _access_log.isEnabledFor(logging.INFO):
        extra = {"access": said}
        _access_log.handle(_access_log.makeRecord(_access_log.name, logging.INFO, "", 0, "", (), None, extra=extra))


def _access(record: logging.LogRecord) -> dict[str, Any]:
    said: dict[str, Any] = record.__dict__.get("access", {})
    return said


def _told(said: dict[str, Any]) -> Iterable[str]:
    return (f"{value}ms" if field == "duration_ms" else str(value) for field, value in said.items())


def _frames(record: logging.LogRecord) -> str:
    """The exception of `record` as type and frames, innermost last, causes behind it; never its text."""
    error = record.exc_info[1] if record.exc_info else None
    parts: list[str] = []
    while error is not None and len(parts) < _DEEPEST:  # a cause may be its own
        frames = (
            f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__, limit=-_DEEPEST)
        )
        parts.append(f"{type(error).__module__}.{type(error).__qualname__} at {' > '.join(frames)}")
        error = error.__cause__ or error.__context__
    return "; caused by ".join(parts)
