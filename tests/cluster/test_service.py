"""As a service: sockets that are held for it, readiness and the watchdog, without systemd itself."""

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest

from lab.load import load
from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from proxy.address import Address
from proxy.config import Config, ProxyConfig
from proxy.control import pack
from proxy.worker import Worker
from tests.cluster.wire import Wire

Proxies = Callable[..., ProxyProcess]

HOLD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Supervisor:
    """What systemd keeps of a service: its socket, and where it is told of its state."""

    def __init__(self, directory: Path) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.socket.set_inheritable(True)
        self.port = self.socket.getsockname()[1]
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.bind(str(directory / "notify"))
        self._channel.settimeout(20)
        self._notify = directory / "notify"
        self.told: list[str] = []

    @property
    def prefix(self) -> list[str]:
        return [
            *("env", f"NOTIFY_SOCKET={self._notify}", "WATCHDOG_USEC=5000000"),
            *(sys.executable, "-c", HOLD, str(self.socket.fileno())),
        ]

    def hears(self, what: str) -> None:
        """Returns when the service has said it since it was last asked. Raises TimeoutError."""
        while True:
            message = self._channel.recv(4096).decode()
            self.told.extend(message.splitlines())
            if what in self.told:
                self.told = self.told[self.told.index(what) + 1 :]
                return

    def close(self) -> None:
        self.socket.close()
        self._channel.close()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path)
    yield made
    made.close()


def start(cluster: RedisCluster, supervisor: Supervisor) -> ProxyProcess:
    proxy = ProxyProcess(
        cluster.addresses,
        port=supervisor.port,
        prefix=supervisor.prefix,
        proxy={"threads": 1},
        pass_fds=[supervisor.socket.fileno()],
    )
    proxy.start()
    return proxy


def test_a_restart_refuses_no_connection(cluster: RedisCluster, supervisor: Supervisor) -> None:
    first = start(cluster, supervisor)
    with Wire(supervisor.port) as wire:
        assert wire.ask("SET", "restart", "1") == b"+OK\r\n"
    first.process.send_signal(signal.SIGTERM)
    wait_until("the first has ended", lambda: first.returncode == 0)
    with Wire(supervisor.port) as between:  # nobody serves now, and yet it is not refused
        between.send(b"*2\r\n$3\r\nGET\r\n$7\r\nrestart\r\n")
        second = start(cluster, supervisor)
        assert between.reply() == b"$1\r\n1\r\n"
    assert first.stop() == second.stop() == 0


def test_states_are_told(cluster: RedisCluster, supervisor: Supervisor) -> None:
    proxy = start(cluster, supervisor)
    supervisor.hears("READY=1")
    supervisor.hears("STATUS=serving, configuration 1")
    supervisor.hears("WATCHDOG=1")
    proxy.configure(proxy={"max_connections": 5})
    proxy.reload()
    supervisor.hears("STATUS=serving, configuration 2; reload applies [proxy] max_connections")
    proxy.process.send_signal(signal.SIGTERM)
    supervisor.hears("STOPPING=1")
    assert proxy.stop() == 0


def test_a_cluster_that_is_not_there_does_not_keep_it_from_being_ready(supervisor: Supervisor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    proxy = ProxyProcess(
        [],
        port=supervisor.port,
        prefix=supervisor.prefix,
        wait=False,
        pass_fds=[supervisor.socket.fileno()],
        cluster={"servers": [f"127.0.0.1:{port}"]},
    )
    proxy.start()
    supervisor.hears("READY=1")
    assert proxy.readiness() == 503
    assert proxy.stop() == 0


def test_a_worker_that_makes_no_turns_has_no_pulse() -> None:
    config = Config(ProxyConfig(), ())
    worker = Worker(0, 1, config, control=Mock(), dialer=Mock(), tallies=())
    assert worker.pulse(), "it is given the benefit of the doubt"
    assert not worker.pulse()
    worker.start()
    wait_until("it turns", worker.pulse)
    worker.stop()
    worker.thread.join(5)
    worker.pulse()
    assert not worker.pulse()


def test_a_restart_under_load_fails_no_request(cluster: RedisCluster, supervisor: Supervisor) -> None:
    """Not even of clients that send nothing again: each connection ends with a reply."""
    proxy = start(cluster, supervisor)
    with load(Address("127.0.0.1", supervisor.port), clients=10, retries=0) as running:
        for _ in range(3):
            running.wait_for(1000)
            proxy.process.send_signal(signal.SIGTERM)
            proxy.process.wait(20)
            assert "closed after" not in proxy.log()
            proxy.stop()
            proxy = start(cluster, supervisor)
    assert running.count.failures == []
    assert running.count.connects >= 40
    assert proxy.stop() == 0


def test_a_client_that_goes_on_sending_knows_what_was_executed(
    cluster: RedisCluster, supervisor: Supervisor
) -> None:
    """As many as it got replies to: were the connection reset, the last of them might be lost."""
    proxy = start(cluster, supervisor)
    with Wire(supervisor.port) as wire:
        assert wire.ask("SET", "last", "0") == b"+OK\r\n"
        proxy.process.send_signal(signal.SIGTERM)
        supervisor.hears("STOPPING=1")
        with suppress(BrokenPipeError, ConnectionResetError):  # after a while nobody takes it any more
            while True:
                wire.send(pack("INCR", "last"))
        replies: list[bytes] = []
        with suppress(EOFError, ConnectionResetError):
            while True:
                replies.append(wire.reply())
    assert replies == [b":%d\r\n" % number for number in range(1, len(replies) + 1)]
    with Wire(supervisor.port) as wire:
        second = start(cluster, supervisor)
        assert wire.ask("GET", "last").splitlines()[1] == b"%d" % len(replies)
    assert proxy.stop() == second.stop() == 0


def test_idle_clients_are_closed_a_little_later(cluster: RedisCluster, supervisor: Supervisor) -> None:
    proxy = start(cluster, supervisor)
    with Wire(supervisor.port) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
        proxy.process.send_signal(signal.SIGTERM)
        assert wire.ended()
        wait_until("it has ended", lambda: proxy.returncode == 0, 5)
    proxy.stop()
