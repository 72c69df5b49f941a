"""Bugs: a thread that dies takes the process down in order, one that hangs is told of and not fed for."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from tests.cluster.wire import Wire

PLANT = """
import os, sys, time
from pathlib import Path

from proxy import topology, worker
from proxy.cli import main
from proxy.dataplane import DataPlane

bug, path = sys.argv[1], Path(sys.argv[2])

def die(*_):
    while not path.exists():
        time.sleep(0.01)
    raise RuntimeError("planted")

def planted(self):
    if path.exists() and bug == "crash":
        os.abort()
    while path.exists():
        time.sleep(0.01)
    mail(self)

class Plane:
    run = die

    def __init__(self, *args):
        self._plane = DataPlane(*args)

    def __getattr__(self, name):
        return getattr(self._plane, name)

mail = worker.Worker.mail
if bug == "topology":
    topology.TopologyThread._run = die
elif bug == "worker":
    worker.DataPlane = Plane
else:
    worker.Worker.mail = planted
sys.exit(main(sys.argv[6:]))
"""

Planted = Callable[[str], tuple[ProxyProcess, Path]]


@pytest.fixture
def planted(cluster: RedisCluster, tmp_path: Path) -> Iterator[Planted]:
    """Makes a proxy with a bug that shows when a file is there."""
    started: list[ProxyProcess] = []

    def make(bug: str) -> tuple[ProxyProcess, Path]:
        path = tmp_path / "now"
        proxy = ProxyProcess(
            cluster.addresses,
            prefix=[sys.executable, "-c", PLANT, bug, str(path)],
            proxy={"threads": 2},
            top={"stdout": True},
            wait=False,
        )
        started.append(proxy)
        proxy.start()
        return proxy, path

    yield make
    for proxy in started:
        proxy.stop()


@pytest.mark.parametrize("bug", ["worker", "topology"])
def test_a_thread_that_dies_takes_the_process_down(planted: Planted, bug: str) -> None:
    proxy, path = planted(bug)
    path.touch()
    wait_until("it ends", lambda: proxy.returncode is not None, 10)
    assert proxy.returncode == 1
    log = proxy.log()
    assert "Traceback (most recent call last)" in log
    assert "RuntimeError: planted" in log
    assert "ended by a bug: so does the process" in log


def test_a_worker_that_hangs_is_told_of(planted: Planted) -> None:
    proxy, path = planted("hang")
    with Wire(proxy.port) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
        path.touch()
        wait_until("it is told", lambda: "makes no turns; it is at" in proxy.log())
        assert "in planted" in proxy.log()
        assert '"worker-0": "makes no turns"' in proxy.page("/healthz")
        path.unlink()
        wait_until("it is well again", lambda: '"ok": true' in proxy.page("/healthz"))
        assert wire.ask("PING") == b"+PONG\r\n"
    assert proxy.log().count("worker-0 makes no turns") == 1


def test_a_crash_leaves_the_stacks_of_all_threads(planted: Planted) -> None:
    """And so does systemd's watchdog, which ends a process by the same signal."""
    proxy, path = planted("crash")
    path.touch()
    wait_until("it ends", lambda: proxy.returncode is not None, 10)
    assert proxy.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in proxy.log()
    assert "in _loop" in proxy.log()
    assert "in planted" in proxy.log()
