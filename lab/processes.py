"""Child processes that never outlive us."""

import ctypes
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class Started(ABC):
    """Something that is started, and ended whatever happens, by ``with``."""

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> object: ...

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(
    command: Sequence[str], log: Path, cwd: Path | None = None, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Starts a process whose output goes to ``log`` and that the kernel ends if we die."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=cwd,
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us: we end it in order
            preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
        )


def end(process: subprocess.Popen[bytes], grace: float = 5.0) -> int:
    """Ends a process, at first politely; returns its status."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)  # one that is stopped could not hear
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode


def free_ports(count: int, *, bus: bool = False) -> list[int]:
    """Ports nobody uses; with ``bus``, the ones 10000 above are free too. Raises OSError."""
    found: list[int] = []
    held: list[socket.socket] = []
    try:
        while len(found) < count:
            probe = socket.socket()
            held.append(probe)
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            if bus:
                # Ports the kernel hands out are too high to leave room above.
                port = 10_000 + port % 12_000
                if port in found or not all(_is_free(one) for one in (port, port + 10_000)):
                    continue
            found.append(port)
    finally:
        for probe in held:
            probe.close()
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until(what: str, condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Waits for a condition; raises TimeoutError, naming it, when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)
