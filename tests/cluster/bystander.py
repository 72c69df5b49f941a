"""A session that behaves, beside one that does not."""

import threading
from types import TracebackType
from typing import Self

from lab.processes import wait_until
from tests.cluster.wire import Wire


class Bystander(threading.Thread):
    """Writes and reads a key of its own, one request at a time, and looks at every reply."""

    def __init__(self, port: int, key: str) -> None:
        super().__init__(daemon=True)
        self.answered = 0
        self.wrong = ""
        """The first reply that was not the right one, or how the connection ended."""
        self._port = port
        self._key = key
        self._stopping = threading.Event()

    def run(self) -> None:
        try:
            with Wire(self._port) as wire:
                while not (self._stopping.is_set() or self.wrong):
                    value = b"%d" % self.answered
                    replies = wire.ask("SET", self._key, value), wire.ask("GET", self._key)
                    if replies != (b"+OK\r\n", b"$%d\r\n%b\r\n" % (len(value), value)):
                        self.wrong = repr(replies)
                    self.answered += 2
        except (OSError, EOFError) as error:
            self.wrong = repr(error)

    def goes_on(self, requests: int = 200) -> None:
        """Waits until so many more of its requests are answered; all that were must be right."""
        goal = self.answered + requests
        wait_until(
            f"{requests} requests of another session are answered",
            lambda: self.answered >= goal or self.wrong,
            60,
        )
        assert not self.wrong

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self.join(30)
        assert not self.wrong
