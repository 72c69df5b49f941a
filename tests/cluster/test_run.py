"""`make run`: what it starts, says and ends."""

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.processes import end, free_ports, start, wait_until
from lab.redis_cluster import RedisCluster
from tests.cluster.wire import Wire

ROOT = Path(__file__).parent.parent.parent


def children(pid: int) -> list[int]:
    """The processes a process has started and that still run."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(word) for word in found.stdout.split()]


@contextmanager
def running(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = start([sys.executable, "-m", "lab", *arguments], log, cwd=ROOT)
    try:
        wait_until(
            "it says how to try it", lambda: process.poll() is not None or "Ctrl-C" in log.read_text(), 60
        )
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        end(process)


def test_it_starts_a_cluster_and_a_proxy_and_ends_both(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(log) as process:
        text = log.read_text()
        port = re.search(r"redis-cli -p (\d+) MSET a 1 b 2 c 3", text)
        metrics = re.search(r"http://127\.0\.0\.1:\d+/metrics", text)
        assert port is not None
        assert metrics is not None
        with Wire(int(port[1])) as wire:
            assert wire.ask("MSET", "a", "1", "b", "2", "c", "3") == b"+OK\r\n"
            assert wire.ask("MGET", "a", "b", "c") == b"*3\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n"
        with urllib.request.urlopen(metrics[0], timeout=10) as page:
            assert b'redis_proxy_requests_total{cluster="lab",command="mset"} 1.0' in page.read()
        own = children(process.pid)
        assert len(own) == 7
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert not [pid for pid in own if Path(f"/proc/{pid}").exists()]


def test_a_taken_port_is_said_and_another_found(cluster: RedisCluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    taken = cluster.addresses[0].port
    with running(log, "--port", str(taken), "--servers", str(cluster.addresses[1])) as process:
        assert f"port {taken} is taken: the proxy listens on" in log.read_text()
        assert len(children(process.pid)) == 1  # the proxy; the cluster is not ours
    assert cluster.nodes[0].call("PING") == b"PONG"


def test_nothing_outlives_it_even_if_it_is_killed(cluster: RedisCluster, tmp_path: Path) -> None:
    with running(tmp_path / "log", "--servers", str(cluster.addresses[0])) as process:
        own = children(process.pid)
        process.kill()
        wait_until(
            "its children have ended", lambda: not [pid for pid in own if Path(f"/proc/{pid}").exists()]
        )


def test_servers_that_make_no_sense_are_refused_in_a_line(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "lab", "--servers", "nonsense", "--port", str(free_ports(1)[0])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert re.fullmatch(r"run: .*nonsense.*\n", result.stderr)
