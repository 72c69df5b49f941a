"""What clients that mean harm, or are broken, have in common; and what must hold whatever they do."""

import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from bench.process import descriptors
from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from tests.cluster.bystander import Bystander
from tests.cluster.hostile_server import MEBIBYTE
from tests.cluster.memory import forget_peak, peak, resident
from tests.cluster.wire import DEADLINE, Wire

LIMIT = 32 * MEBIBYTE
"""``memory_limit`` of a proxy with one worker: so a bystander shares it with whoever does harm."""
BOUND = LIMIT + 32 * MEBIBYTE
"""What the process may grow by: the limit, what may come in one turn, and free memory it keeps."""

KEPT = 32
"""More than the connections to servers that may be opened once, and kept."""

PATIENCE = 0.5
CHUNK = 1 << 16
SESSIONS = "overlord_proxy_conns"
BUFFERS = "redis_proxy_buffer_bytes"
EVICTED = "redis_proxy_evicted_total"
TURNED_AWAY = "redis_proxy_turned_away_total"


class Scene(NamedTuple):
    """A proxy, and a session that behaves and must not be disturbed."""

    proxy: ProxyProcess
    other: Bystander

    def open(self) -> Wire:
        return Wire(self.proxy.port)

    @contextmanager
    def crowd(self, count: int) -> Iterator[list[Wire]]:
        with ExitStack() as stack:
            yield [stack.enter_context(self.open()) for _ in range(count)]

    def metric(self, name: str) -> float:
        return self.proxy.metric(name)


@contextmanager
def undisturbed(proxy: ProxyProcess) -> Iterator[Scene]:
    """Whatever happens meanwhile: another session goes on, memory is bounded, and all is given back."""
    before = resident(proxy.pid), descriptors(proxy.pid)
    forget_peak(proxy.pid)
    with Bystander(proxy.port, "bystander") as other:
        other.goes_on(20)
        yield Scene(proxy, other)
        other.goes_on()
    assert peak(proxy.pid) - before[0] < BOUND
    wait_until("all sessions have gone", lambda: proxy.metric(SESSIONS) == 0)
    wait_until("all memory is given back", lambda: proxy.metric(BUFFERS) < MEBIBYTE)
    wait_until("descriptors are given back", lambda: descriptors(proxy.pid) < before[1] + KEPT)
    assert "Traceback" not in proxy.log()


def send_all_it_takes(wire: Wire, data: bytes) -> int:
    """Sends until the other side takes nothing for a while, or has gone; how many bytes it took."""
    sent = 0
    wire.socket.settimeout(PATIENCE)
    with suppress(TimeoutError, ConnectionError):
        while sent < len(data):
            sent += wire.socket.send(data[sent : sent + CHUNK])
    wire.socket.settimeout(DEADLINE)
    return sent


def exchange(wire: Wire, data: bytes, size: int) -> bytes:
    """Sends all while it reads, until so many bytes have come or the other side closes."""
    found = bytearray()
    sent = 0
    while len(found) < size:
        readable, writable, _ = select.select([wire.socket], [wire.socket] * (sent < len(data)), [], DEADLINE)
        if not readable and not writable:
            raise TimeoutError(f"{len(found)} of {size} bytes have come")
        if writable:
            sent += wire.socket.send(data[sent : sent + CHUNK], socket.MSG_DONTWAIT)
        if readable:
            more = wire.socket.recv(1 << 20)
            if not more:
                break
            found += more
    return bytes(found)


def until_the_end(wire: Wire) -> bytes:
    """All that comes before the other side closes."""
    found = bytearray()
    with suppress(ConnectionResetError):
        while more := wire.socket.recv(CHUNK):
            found += more
    return bytes(found)


def until_closed(act: Callable[[int], object], most: int) -> int:
    """Does something again and again until the other side closes; how often it could be done."""
    for done in range(most):
        try:
            act(done)
        except (EOFError, ConnectionError):
            return done
    return most


def reset(wire: Wire) -> None:
    """Ends the connection as a client that crashes, or a firewall, does."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()
