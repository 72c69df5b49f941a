"""The process: its listeners, its limits, how it ends, and what it tells about itself."""

import json
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from proxy.control import pack
from proxy.reply import bulk
from tests.cluster.wire import Wire

Clusters = Callable[..., RedisCluster]
Proxies = Callable[..., ProxyProcess]


def test_what_is_in_flight_finishes_before_it_ends(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=0, node_timeout=15000)
    proxy = new_proxy(cluster, cluster={"ping_auto_eject": False})
    slow = cluster.master_of("a")
    with Wire(proxy.port) as busy, Wire(proxy.port) as idle:
        assert busy.ask("SET", "a", "1") == b"+OK\r\n"
        assert idle.ask("PING") == b"+PONG\r\n"
        slow.pause()
        busy.send(pack("INCR", "a"))
        wait_until("the request is on its way", lambda: proxy.metric("redis_proxy_received_bytes_total") > 60)
        proxy.process.send_signal(signal.SIGTERM)
        assert idle.ended()
        with pytest.raises(ConnectionRefusedError):
            Wire(proxy.port)
        assert proxy.returncode is None
        slow.resume()
        assert busy.reply() == b":2\r\n"
        assert busy.ended()
    wait_until("it ends", lambda: proxy.returncode == 0)


def test_half_a_request_does_not_keep_it_from_ending(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, proxy={"shutdown_timeout": 60000})
    with Wire(proxy.port) as wire:
        wire.send(b"*2\r\n$3\r\nGET\r\n$100\r\nhalf")
        wait_until("it has come", lambda: proxy.metric("redis_proxy_buffer_bytes") > 0)
        proxy.process.send_signal(signal.SIGTERM)
        assert wire.ended()
    wait_until("it ends", lambda: proxy.returncode == 0, 10)


def test_it_does_not_wait_for_ever_to_end(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=0, node_timeout=15000)
    proxy = new_proxy(cluster, proxy={"shutdown_timeout": 300}, cluster={"ping_auto_eject": False})
    slow = cluster.master_of("a")
    with Wire(proxy.port) as busy:
        assert busy.ask("SET", "a", "1") == b"+OK\r\n"
        slow.pause()
        try:
            busy.send(pack("GET", "a"))
            proxy.process.send_signal(signal.SIGTERM)
            wait_until("it ends", lambda: proxy.returncode == 0, 10)
        finally:
            slow.resume()


def test_load_balancers_notice_before_clients_do(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, proxy={"drain_delay": 60000})
    with Wire(proxy.port) as before:
        assert before.ask("PING") == b"+PONG\r\n"
        proxy.process.send_signal(signal.SIGTERM)
        wait_until("/readyz says so", lambda: proxy.readiness() == 503)
        assert json.loads(proxy.page("/readyz")) == {"ok": False, "wrong": {"process": "ending"}}
        with Wire(proxy.port) as late:
            assert late.ask("PING") == before.ask("PING") == b"+PONG\r\n"
            proxy.process.send_signal(signal.SIGTERM)
            assert late.ended()
            assert before.ended()
    wait_until("it ends", lambda: proxy.returncode == 0, 10)


def test_it_ends_by_itself_after_the_drain(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, proxy={"drain_delay": 500})
    with Wire(proxy.port) as wire:
        proxy.process.send_signal(signal.SIGTERM)
        wait_until("/readyz says so", lambda: proxy.readiness() == 503)
        assert wire.ask("PING") == b"+PONG\r\n"
        assert wire.ended()
    wait_until("it ends", lambda: proxy.returncode == 0, 10)


def test_an_interrupt_does_not_wait_for_load_balancers(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, proxy={"drain_delay": 60000})
    proxy.process.send_signal(signal.SIGINT)
    wait_until("it ends", lambda: proxy.returncode == 0, 10)


def test_a_drain_that_is_taken_back(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster)
    proxy.process.send_signal(signal.SIGUSR2)
    wait_until("/readyz says so", lambda: proxy.readiness() == 503)
    assert "SIGUSR2" in proxy.page("/readyz")
    with Wire(proxy.port) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
    proxy.process.send_signal(signal.SIGUSR2)
    wait_until("/readyz is well again", lambda: proxy.readiness() == 200)


def test_more_clients_than_allowed_are_told_so(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, proxy={"max_connections": 2, "threads": 2})
    with Wire(proxy.port) as first, Wire(proxy.port) as second:
        assert first.ask("PING") == second.ask("PING") == b"+PONG\r\n"
        with Wire(proxy.port) as third:
            assert third.reply() == b"-ERR max number of clients reached\r\n"
            assert third.ended()
        assert first.ask("PING") == b"+PONG\r\n"
    assert proxy.metric("redis_proxy_connections_rejected_total") == 1
    wait_until("there is room again", lambda: proxy.metric("overlord_proxy_conns") == 0)
    with Wire(proxy.port) as again:
        assert again.ask("PING") == b"+PONG\r\n"


def test_a_unix_listener_and_its_file(cluster: RedisCluster, new_proxy: Proxies, tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))  # a file that nobody listens on any more
    proxy = new_proxy(cluster, cluster={"listen_proto": "unix", "listen_addr": str(path)})
    with Wire(0, str(path)) as wire:
        assert wire.ask("MSET", "a", "1", "b", "2") == b"+OK\r\n"
        assert b"addr=" in wire.ask("CLIENT", "INFO")
    proxy.process.send_signal(signal.SIGTERM)
    wait_until("it ends", lambda: proxy.returncode == 0)
    assert not path.exists()


def test_an_address_in_use_is_named(cluster: RedisCluster) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        proxy = ProxyProcess(cluster.addresses, port=port)
        with pytest.raises(
            RuntimeError,
            match=rf"status 1:\nredis-proxy: cluster lab: listen on 127.0.0.1:{port}: Address already in use",
        ):
            proxy.start()
        proxy.stop()


def test_silent_clients_are_closed_after_the_read_timeout(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, proxy={"read_timeout": 300})
    with Wire(proxy.port) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
        began = time.monotonic()
        assert wire.ended()
        assert 0.2 < time.monotonic() - began < 10


def test_keepalive_is_on_towards_clients(shared_proxy: ProxyProcess) -> None:
    with Wire(shared_proxy.port) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
        port = wire.socket.getsockname()[1]
        # The field "tr" of the proxy's side: timer 2 is keepalive (the kernel's proc_net_tcp.txt).
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        ours = [
            line
            for line in lines
            if line[1].endswith(f":{shared_proxy.port:04X}") and line[2].endswith(f":{port:04X}")
        ]
        assert [line[5].split(":")[0] for line in ours] == ["02"]


def test_slow_requests_are_remembered_and_written(
    cluster: RedisCluster, new_proxy: Proxies, tmp_path: Path
) -> None:
    path = tmp_path / "slow.log"
    proxy = new_proxy(cluster, cluster={"slowlog_slower_than": 1}, flags=["-slowlog", str(path)])
    with Wire(proxy.port) as wire:
        wire.ask("SET", "slow", "v" * 1000)
        wire.ask("GET", "slow")
        client = "{}:{}".format(*wire.socket.getsockname())
        assert bulk(client.encode()) in wire.ask("SLOWLOG", "GET")
    (part,) = json.loads(proxy.page("/slowlog"))
    first, second = part["entries"]
    assert part["cluster"] == "lab"
    assert first["Cmd"][:2] == ["SET", "slow"]
    assert first["Cmd"][2].startswith("vvv")
    assert first["Size"] == len(pack("SET", "slow", "v" * 1000))
    assert second["Cmd"] == ["GET", "slow"]
    assert second["Client"] == client
    assert 1000 < second["RemoteDur"] <= second["TotalDur"] < 10e9
    assert second["Addr"] == str(cluster.master_of("slow").address)
    wait_until("both are in the file", lambda: path.read_text().count("\n") == 2)
    assert json.loads(path.read_text().splitlines()[1])["Cmd"] == ["GET", "slow"]


def test_sigusr1_opens_the_log_anew(cluster: RedisCluster, new_proxy: Proxies, tmp_path: Path) -> None:
    path, moved = tmp_path / "proxy.log", tmp_path / "proxy.log.1"
    proxy = new_proxy(cluster, top={"log": str(path), "log_format": "json"})
    assert any("listening on" in json.loads(line)["msg"] for line in path.read_text().splitlines())
    path.rename(moved)
    proxy.process.send_signal(signal.SIGUSR1)
    wait_until("there is a new file", path.exists)
    with Wire(proxy.port) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
    opened = [link.resolve() for link in Path(f"/proc/{proxy.pid}/fd").iterdir()]
    assert path in opened
    assert moved not in opened


def test_connections_that_come_and_go_leave_nothing_behind(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, proxy={"threads": 1})
    failures: list[Exception] = []

    def churn() -> None:
        try:
            for i in range(300):
                with Wire(proxy.port) as wire:
                    wire.send(pack("SET", f"churn:{i}", "v") + b"*2\r\n$3\r\nGE")
                    if i % 3:
                        assert wire.reply() == b"+OK\r\n"
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    wait_until("all sessions are closed", lambda: proxy.metric("overlord_proxy_conns") == 0)
    wait_until("all buffers are given back", lambda: proxy.metric("redis_proxy_buffer_bytes") == 0)
    assert len(list(Path(f"/proc/{proxy.pid}/fd").iterdir())) < 50


def test_too_many_readers_of_the_pages_are_turned_away(cluster: RedisCluster, new_proxy: Proxies) -> None:
    """Each takes a thread, for as long as it likes to ask and to read."""
    proxy = new_proxy(cluster)
    with ExitStack() as stack:
        many = [
            stack.enter_context(socket.create_connection(("127.0.0.1", proxy.stat_port))) for _ in range(200)
        ]
        wait_until("some are turned away", lambda: any(_has_ended(one) for one in many))
        with Wire(proxy.port) as wire:
            assert wire.ask("PING") == b"+PONG\r\n"
        assert len(list(Path(f"/proc/{proxy.pid}/task").iterdir())) < 110
    wait_until("there is room again", lambda: proxy.readiness() == 200)


def _has_ended(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a_health_check_that_does_not_read_to_the_end_is_no_error(
    cluster: RedisCluster, new_proxy: Proxies
) -> None:
    proxy = new_proxy(cluster, top={"log_lv": 3})
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", proxy.stat_port)) as check:
            # Closed with a reset, some before the reply and some in the midst of it.
            check.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            check.sendall(b"GET /metrics HTTP/1.1\r\nHost: proxy\r\n\r\n")
            check.recv(1)
    assert proxy.readiness() == 200
    assert "Traceback" not in proxy.log()
