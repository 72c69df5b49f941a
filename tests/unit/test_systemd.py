"""The protocol between systemd and a service, with real sockets."""

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from proxy import systemd
from proxy.address import Address
from proxy.config import ClusterConfig
from proxy.listeners import open_listeners


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.bind(str(tmp_path / "notify"))
    channel.settimeout(5)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return channel


def test_systemd_is_told(told: socket.socket) -> None:
    assert systemd.notify(READY=1, STATUS="serving")
    assert told.recv(1000) == b"READY=1\nSTATUS=serving\n"


def test_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0redis-proxy-test-{os.getpid()}")
        channel.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@redis-proxy-test-{os.getpid()}")
        assert systemd.notify(WATCHDOG=1)
        assert channel.recv(100) == b"WATCHDOG=1\n"


def test_one_who_does_not_listen_is_not_waited_for(told: socket.socket) -> None:
    told.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    with suppress(BlockingIOError):
        while True:
            systemd.notify(WATCHDOG=1)


def test_nobody_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify(READY=1)


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_the_watchdog(
    environment: dict[str, str], interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert systemd.watchdog_interval() == interval


PASS_ON = """
import os, socket, sys
listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
for number, one in enumerate(listening):
    os.dup2(one.fileno(), 13 + number)
for number in range(2):
    os.dup2(13 + number, 3 + number)
    os.set_inheritable(3 + number, True)
os.environ.update(LISTEN_FDS="2", LISTEN_PID=str(os.getpid() + int(sys.argv[1])))
os.execv(sys.executable, [sys.executable, "-c", '''
import os
from proxy.systemd import passed_sockets
sockets = passed_sockets()
assert all(one.getsockname()[0] == "127.0.0.1" for one in sockets)
print(len(sockets), [one.get_inheritable() for one in sockets], len(passed_sockets()),
      "LISTEN_FDS" in os.environ)
'''])
"""


@pytest.mark.parametrize(("another", "told_of"), [("0", "2 [False, False] 0 False"), ("1", "0 [] 0 False")])
def test_sockets_are_passed_on_to_the_one_they_are_for(another: str, told_of: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PASS_ON, another], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == told_of


def cluster(listen: Address | str, proto: str = "tcp") -> ClusterConfig:
    return ClusterConfig(name="c", listen_addr=listen, listen_proto=proto, servers=(Address("127.0.0.1", 1),))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_listener_takes_the_socket_of_its_address(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        (listener,) = open_listeners([cluster(Address(host, passed.getsockname()[1]))], [passed])
        assert listener.socket is passed


def test_a_unix_socket_that_was_passed_on_keeps_its_file(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(path))
        passed.listen()
        (listener,) = open_listeners([cluster(str(path), "unix")], [passed])
        listener.close()
        assert path.exists()


def test_a_socket_nobody_listens_on_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed, socket.create_server(("127.0.0.1", 0)) as other:
        address = passed.getsockname()
        listen = cluster(Address("127.0.0.1", other.getsockname()[1]))
        with pytest.raises(OSError, match=f"127.0.0.1:{address[1]}, where no cluster listens"):
            open_listeners([listen], [other, passed])
        assert other.fileno() == -1, "what was taken is closed"
