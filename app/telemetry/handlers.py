"""Where log lines go: the console and a file. Neither fails whoever logs; the console tells what ails the file."""

import errno
import logging
import os
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from app.errors import Refused


class LineHandler(logging.Handler, ABC):
    """Writes lines: those of records, and such as are made already. Never fails whoever logs."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):
            self._say(self.format(record))

    def say(self, line: str) -> None:
        """Write a line that is made already; what a record would cost beside it is more than the line."""
        self.acquire()
        try:
            with suppress(Exception):
                self._say(line)
        finally:
            self.release()

    @abstractmethod
    def _say(self, line: str) -> None:
        """Write one line, with the lock held."""


class Console(LineHandler):
    """Standard error, for as long as somebody reads it."""

    def __init__(self) -> None:
        super().__init__()
        self._stream: TextIO = sys.stderr

    def _say(self, line: str) -> None:
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except BrokenPipeError:
            silence(self._stream)


def silence(stream: TextIO) -> None:
    """Let a console that nobody reads any more, as in `serve | head -1`, take everything.

    What it could not write stays in its buffer, and multiprocessing flushes that before it starts a worker.
    """
    nobody = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nobody, stream.fileno())
    os.close(nobody)


class LineFile(LineHandler):
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

    def _say(self, line: str) -> None:
        try:
            trouble = self._follow_rename()
            self._write((line + "\n").encode("utf-8", "backslashreplace"))
        except OSError as error:
            trouble = f"cannot be written ({error.strerror}): its lines are on the console only"
            self._lost += 1
        if bool(trouble) != bool(self._trouble):
            self._tell(trouble)

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
