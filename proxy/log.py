"""Logging of the process: one line a record, ``key=value`` or JSON, written by a thread of its own.

    time=2026-01-31T23:59:59.123Z level=warning logger=proxy.dialer thread=dialer_0 msg="can't connect"

A thread that logs only puts the record in a queue. When the queue is full, because a disk or a pipe does
not keep up, the record is dropped and counted: a worker never waits for its log. What is written too often
is left out and counted: see ``proxy.repeats``.
"""

import copy
import json
import logging
import os
import queue
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from pathlib import Path
from typing import Any

from proxy.config import ProxyConfig
from proxy.repeats import Repeats, kind_of

log = logging.getLogger("proxy.log")

CAPACITY = 10_000
"""Records that may wait to be written."""
PATIENCE = 5.0
"""Seconds that ``stop`` waits for what is still to be written."""

STDOUT, STDERR = 1, 2

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")
"""Printable ASCII without space, quote, equals sign and backslash."""


def level(log_lv: int) -> int:
    """The level for Overlord's number.

    Overlord marks its messages with 0 (always shown) to 5 and shows those up to the number. Ours are of two
    kinds: 0 to 2 show what happens (INFO and above), 3 and more each detail as well (DEBUG).
    """
    return logging.DEBUG if log_lv >= 3 else logging.INFO


class _Formatter(logging.Formatter):
    def pairs(self, record: logging.LogRecord) -> dict[str, str]:
        """What is told of a record."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        pairs = {
            "time": f"{when}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName or "",
            "msg": record.getMessage(),
        }
        if record.exc_info:
            pairs["exception"] = self.formatException(record.exc_info)
        return pairs


class KeyValueFormatter(_Formatter):
    """One line of ASCII. A value with spaces, quotes or anything odd in it is written as a JSON string."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_quoted(value)}" for key, value in self.pairs(record).items())


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


class JsonFormatter(_Formatter):
    """One line of ASCII: a JSON object of strings."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.pairs(record))


FORMATTERS: Mapping[str, type[logging.Formatter]] = {"logfmt": KeyValueFormatter, "json": JsonFormatter}
"""By the values of the key ``log_format``."""


class Console(logging.Handler):
    """Standard output or error, without a buffer or a lock that the end of the process could wait for."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def handle(self, record: logging.LogRecord) -> bool:
        """Writes it, in the only thread that does; raises OSError."""
        line = f"{self.format(record)}\n".encode()
        while line:
            line = line[os.write(self._descriptor, line) :]
        return True


class _File(WatchedFileHandler):
    """A file that is opened anew when logrotate has moved it away."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Leaves it to the caller, who counts."""
        raise  # noqa: PLE0704


class _Enqueue(QueueHandler):
    """Where loggers put their records; a record that finds no room is counted."""

    def __init__(self, waiting: queue.Queue[logging.LogRecord | None]) -> None:
        super().__init__(waiting)
        self.dropped = 0  # changed under the lock that every handler holds while it emits

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """A copy that says what the arguments say now."""
        kind = kind_of(record)
        record = copy.copy(record)
        record.msg, record.args = record.getMessage(), None
        record.__dict__["kind"] = kind
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            super().enqueue(record)
        except queue.Full:
            self.dropped += 1


class _Write(QueueListener):
    """The thread that writes; it outlives every failure to write."""

    def __init__(
        self,
        waiting: queue.Queue[logging.LogRecord | None],
        source: _Enqueue,
        handlers: list[logging.Handler],
    ) -> None:
        super().__init__(waiting, *handlers)
        self.waiting = waiting
        self.source = source
        self.failed = 0
        self.reopen = False
        """Set by others, who log something then: files are to be opened anew."""
        self._told = 0
        self._repeats = Repeats()

    def dequeue(self, block: bool) -> Any:
        """The next record, or None at the end; while there is neither, what was left out is told in time."""
        while True:
            try:
                return self.waiting.get(timeout=self._repeats.remaining(time.monotonic()))
            except queue.Empty:
                self._to_all(self._repeats.end(time.monotonic()))

    def handle(self, record: logging.LogRecord) -> None:
        if self.reopen:
            self.reopen = False
            self._reopen()
        self._to_all(self._repeats.take(record.__dict__["kind"], record, time.monotonic()))
        if self.waiting.empty():
            self._tell()

    def _reopen(self) -> None:
        for handler in self.handlers:
            if isinstance(handler, _File):
                with suppress(OSError):  # the next record tries again, and is counted if it fails
                    handler.reopenIfNeeded()

    def _to_all(self, records: Iterable[logging.LogRecord]) -> None:
        for record in records:
            for handler in self.handlers:
                try:
                    handler.handle(record)
                except Exception:  # disks fill, pipes break: nobody is left to be told
                    self.failed += 1

    def _tell(self) -> None:
        """Logs how many records were dropped since it was last said."""
        dropped = self.source.dropped
        if dropped > self._told:
            message = (
                f"{dropped - self._told} log records dropped: they came faster than they could be written"
            )
            self._told = dropped
            self._to_all([logging.LogRecord(log.name, logging.WARNING, __file__, 0, message, None, None)])

    def finish(self, patience: float) -> bool:
        """Writes what is waiting; False when that takes longer than ``patience`` seconds."""
        deadline = time.monotonic() + patience
        thread = self._thread
        try:
            self.waiting.put(None, timeout=patience)
        except queue.Full:
            return False
        if thread:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                return False
        self._to_all(self._repeats.end(time.monotonic()))
        self._tell()
        for handler in self.handlers:
            with suppress(OSError):  # the last of it finds no room on a full disk
                handler.close()
        return True


class Logging:
    """The logging of this process, from ``setup`` until ``stop``."""

    def __init__(
        self,
        handlers: list[logging.Handler],
        threshold: int,
        capacity: int = CAPACITY,
        formatter: type[logging.Formatter] = KeyValueFormatter,
    ) -> None:
        for handler in handlers:
            handler.setFormatter(formatter())
        waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(capacity)
        self._enqueue = _Enqueue(waiting)
        self._write = _Write(waiting, self._enqueue, handlers)
        self._root = logging.getLogger()
        self._former_level = self._root.level
        self._root.setLevel(threshold)
        self._root.addHandler(self._enqueue)
        self._write.start()

    @property
    def dropped(self) -> int:
        """Records that were not written, for want of room or because writing failed."""
        return self._enqueue.dropped + self._write.failed

    @property
    def waiting(self) -> int:
        """Records in the queue."""
        return self._write.waiting.qsize()

    def reopen(self) -> None:
        """Has the thread that writes open the file anew, if it has been renamed or removed."""
        self._write.reopen = True
        log.info("the log file is opened anew if it has been renamed")

    def stop(self, patience: float = PATIENCE) -> bool:
        """Ends logging; False when records are left that could not be written in ``patience`` seconds."""
        self._root.removeHandler(self._enqueue)
        self._root.setLevel(self._former_level)
        return self._write.finish(patience)


_running: Logging | None = None


def dropped() -> int:
    """``dropped`` of the process's logging; 0 when there is none."""
    return _running.dropped if _running else 0


def reopen() -> None:
    """Opens the log file anew at once, not only with the next record."""
    if _running:
        _running.reopen()


def configure(config: ProxyConfig) -> None:
    """Logs as much as the configuration says from now on."""
    logging.getLogger().setLevel(level(config.log_lv))


def setup(config: ProxyConfig) -> Logging:
    """Starts logging to what the configuration names, or to standard error if it names nothing.

    Raises OSError when the log file can't be opened; its directory is made if there is none.
    """
    global _running  # noqa: PLW0603
    handlers: list[logging.Handler] = []
    if config.log:
        path = Path(config.log)
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_File(path, encoding="ascii", errors="backslashreplace"))
    if config.stdout or config.debug:
        handlers.append(Console(STDOUT))
    _running = Logging(
        handlers or [Console(STDERR)], level(config.log_lv), formatter=FORMATTERS[config.log_format]
    )
    return _running
