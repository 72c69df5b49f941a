"""Threads for calls that may wait for others: dials, pings, questions to servers."""

import threading
from collections import deque
from collections.abc import Callable

IDLE = 30.0
"""Seconds after which a thread without work ends."""


class Pool:
    """Runs calls in at most so many threads, started as they are needed.

    They are daemons: one that waits for a server that hangs does not keep the process from ending, as those
    of concurrent.futures would. A call that raises has ``threading.excepthook`` end the process.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._calls: deque[Callable[[], None]] = deque()
        self._threads = self._idle = 0
        self._closed = False
        self._changed = threading.Condition()

    def submit(self, call: Callable[[], None]) -> None:
        """Has a thread call it as soon as one is free; never, if the pool is closed before."""
        with self._changed:
            self._calls.append(call)
            if len(self._calls) <= self._idle:
                self._changed.notify()
            elif self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def close(self) -> None:
        """Begins no more calls. Those under way are left to end by themselves."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (call := self._next()) is not None:
            call()

    def _next(self) -> Callable[[], None] | None:
        """The next call; None when there is no more for this thread to do."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._calls or self._closed, IDLE)
            self._idle -= 1
            if self._calls and not self._closed:
                return self._calls.popleft()
            self._threads -= 1
            return None
