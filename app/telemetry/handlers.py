"""Where log lines go: the console and a file. Neither fails whoever logs; the console tells what ails the file."""

import errno
import logging
import os
import sys
from pathlib import Path
from typing import TextIO

from app.errors import Refused


class Console(logging.StreamHandler[TextIO]):
    """Standard error, for as long as somebody reads it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's
        """Nothing: the way to say it is the one that is closed."""
        if isinstance(sys.exception(), BrokenPipeError):
            silence(self.stream)


def silence(stream: TextIO) -> None:
    """Let a console that nobody reads any more, as in `serve | head -1`, take everything.

    What it could not write stays in its buffer, and multiprocessing flushes that before it starts a worker.
    """
    nobody = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nobody, stream.fileno())
    os.close(nobody)


class LineFile(logging.Handler):
    """A log file that several processes share: O_APPEND, one write per line, reopened when it was renamed.

    Trouble and its end are told to `console`, one line each. Raises Refused if `path` cannot be opened at first.
    """

    def __init__(self, path: Path, console: logging.Handler) -> None:
        super().__init__()
        self.path = path
        self.console = console
        self._trouble = ""
        self._lost = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._use(self._open())
        except OSError as error:
            raise Refused(
                f"LOG_FILE {path} cannot be opened ({error.strerror}): name a writable file, or leave it empty for none"
            ) from None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            try:
                trouble = self._follow_rename()
                self._write(line)
            except OSError as error:
                trouble = f"cannot be written ({error.strerror}): its lines are on the console only"
                self._lost += 1
            if bool(trouble) != bool(self._trouble):
                self._tell(trouble)
        except Exception:  # noqa: BLE001 - a log that cannot be written never fails a request
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Nothing: the console has the same line."""

    def close(self) -> None:
        os.close(self._descriptor)
        super().close()

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o640)

    def _follow_rename(self) -> str:
        """Open the name anew if it is no longer that of the open file. Returns what is wrong if that has to wait."""
        try:
            named = os.stat(self.path)  # noqa: PTH116 - twice as fast as Path.stat, on every line
            if (named.st_ino, named.st_dev) == self._opened:
                return ""
        except OSError:
            pass  # opening it tells better
        try:
            fresh = self._open()
        except OSError as error:  # such as between logrotate's rename and its `create`, in a directory of root's
            if os.fstat(self._descriptor).st_nlink == 0:
                raise
            return f"cannot be opened anew ({error.strerror}): its lines go on into the renamed file"
        os.close(self._descriptor)
        self._use(fresh)
        return ""

    def _use(self, descriptor: int) -> None:
        opened = os.fstat(descriptor)
        self._descriptor, self._opened = descriptor, (opened.st_ino, opened.st_dev)

    def _write(self, line: bytes) -> None:
        written = os.write(self._descriptor, line)
        if written < len(line):  # full: take the torn line back, unless another process got behind it
            end = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            if os.fstat(self._descriptor).st_size == end:
                os.ftruncate(self._descriptor, end - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _tell(self, trouble: str) -> None:
        message = trouble or f"is written again; {self._lost} of its lines are missing"
        told = {"name": "app", "levelno": logging.WARNING, "levelname": "WARNING"}
        record = logging.makeLogRecord(told | {"msg": f"LOG_FILE {self.path} {message} (process {os.getpid()})"})
        self.console.handle(record)
        self._trouble = trouble
        if not trouble:
            self._lost = 0
            self.emit(record)
