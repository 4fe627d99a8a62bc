"""One log configuration for the app, uvicorn, SQLAlchemy and Alembic: one physical line per record.

A line is forged by whoever gets a line break into it, so control characters are escaped. An exception is
logged by type and frames, never by its text: PostgreSQL quotes parameters, and parameters are messages.
"""

import json
import logging
import re
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, NamedTuple, cast

from app.telemetry.handlers import Console, LineFile, LineHandler

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The request that the current task serves; on every line that is logged meanwhile."""

_DEEPEST = 50
"""Causes of an exception, and frames of each, that are logged: a recursion has a thousand."""

_handlers: list[LineHandler] = []
"""Those that `configure` has put on the root logger."""

_log = logging.getLogger("app")
_access_log = logging.getLogger("app.access")
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
_QUOTES = {"asyncio": re.compile("[^\n<]*"), "py.warnings": re.compile(r".*?:\d+: \w+|")}
"""Loggers whose messages quote values, by repr or in a warning's text, and what may be kept: all in front of it."""

_NOISY = ("uvicorn", "uvicorn.error", "uvicorn.asgi", "sqlalchemy", "alembic", "slowapi")


def configure(*, level: str, style: Literal["text", "json"], file: Path | None) -> None:
    """Send every logger's records to the console and to `file`. Raises Refused if `file` cannot be opened."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line tells them; half a record
    formatter = JsonFormatter() if style == "json" else TextFormatter()
    root = logging.getLogger()
    console = Console()
    handlers: list[LineHandler] = [console]
    if file is not None:
        same = (old for old in root.handlers if isinstance(old, LineFile) and old.path == file)
        shared = next(same, None) or LineFile(file, console)  # the same one says only once that the disk is full
        shared.console = console
        handlers.append(shared)
    for handler in handlers:
        handler.setFormatter(formatter)
    for old in root.handlers[:]:
        if isinstance(old, LineHandler) or type(old) is logging.StreamHandler:
            root.removeHandler(old)
            if old not in handlers:
                old.close()
    root.handlers.extend(handlers)
    _handlers[:] = handlers
    root.setLevel(level)
    for name in _NOISY:  # uvicorn configures its own loggers before it imports us
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    theirs = logging.getLogger("uvicorn.access")  # ours has the request id, the route and the duration
    theirs.handlers.clear()
    theirs.propagate = False  # uvicorn puts each line together if one handler could take it, also of a disabled logger
    theirs.disabled = True
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


class Entry(NamedTuple):
    """What a line says, in seconds since 1970 and words; an access line says fields instead of a message."""

    when: float
    level: str
    logger: str
    message: str = ""
    access: Mapping[str, Any] = MappingProxyType({})
    frames: str = ""


class LineFormatter(logging.Formatter, ABC):
    """Makes the line of a record once for all handlers: console and file take the same."""

    def format(self, record: logging.LogRecord) -> str:
        made_by, line = getattr(record, "made", (None, ""))
        if made_by is not self:
            said = record.__dict__.get("access", {})
            line = self.line(
                Entry(record.created, record.levelname, record.name, _message(record), said, _frames(record))
            )
            record.made = (self, line)
        return str(line)

    @abstractmethod
    def line(self, entry: Entry) -> str:
        """What says all of it on one line."""


class TextFormatter(LineFormatter):
    """`time level logger request_id message`, for people."""

    def line(self, entry: Entry) -> str:
        told = (f"{value}ms" if field == "duration_ms" else str(value) for field, value in entry.access.items())
        words = (_time(entry.when), entry.level, entry.logger, request_id.get(), entry.message, *told, entry.frames)
        return escape(" ".join(filter(None, words)))


class JsonFormatter(LineFormatter):
    """One JSON object a line, for machines."""

    def line(self, entry: Entry) -> str:
        line: dict[str, Any] = {
            "time": _time(entry.when),
            "level": entry.level,
            "logger": entry.logger,
            "request_id": request_id.get(),
            "message": entry.message,
            **entry.access,
        }
        if entry.frames:
            line["exception"] = entry.frames
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


def _time(when: float) -> str:
    second, millisecond = divmod(int(when * 1000), 1000)
    return f"{_second(second)}.{millisecond:03}Z"


@lru_cache(maxsize=1)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def access(**said: Any) -> None:
    """Log the line of a request, of these fields in this order."""
    if not _access_log.isEnabledFor(logging.INFO):
        return
    if _only_ours():  # then without a record, which costs more than its line
        line = cast("LineFormatter", _handlers[0].formatter).line(
            Entry(time.time(), "INFO", _access_log.name, access=said)
        )
        for handler in _handlers:
            handler.say(line)
    else:
        # Not _access_log.info(): it walks the stack for a place that no line of ours tells.
        extra = {"access": said}
        _access_log.handle(_access_log.makeRecord(_access_log.name, logging.INFO, "", 0, "", (), None, extra=extra))


def _only_ours() -> bool:
    """Whether a record of the access log would reach our handlers, and nothing else."""
    if not _handlers or logging.root.handlers != _handlers or _access_log.handlers or _log.handlers:
        return False
    return not (_access_log.filters or any(handler.filters or handler.level for handler in _handlers))


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
