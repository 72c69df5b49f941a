"""What /metrics tells, and that Prometheus is content with it."""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from proxy.control import pack
from proxy.metrics import STATES
from proxy.stats import CODES
from tests.cluster.wire import Wire

TEMPLATES = Path(__file__).parents[2] / "templates"
Clusters = Callable[..., RedisCluster]
Proxies = Callable[..., ProxyProcess]


@pytest.fixture
def proxy(new_proxy: Proxies, cluster: RedisCluster) -> ProxyProcess:
    return new_proxy(cluster, proxy={"threads": 2}, cluster={"slowlog_slower_than": 1})


def test_requests_by_cluster_and_command(proxy: ProxyProcess) -> None:
    with Wire(proxy.port) as wire:
        wire.ask("SET", "m", "v")
        wire.ask("GET", "m")
        wire.ask("GET", "m")
        wire.ask("LPUSH", "m", "x")
        wire.ask("MGET", "m", "n", "o")
        wire.ask("NOSUCH")
        count = "redis_proxy_requests_total"
        assert proxy.metric(count, cluster="lab", command="get") == 2
        assert proxy.metric(count, cluster="lab", command="mget") == 1
        assert proxy.metric("redis_proxy_request_errors_total", cluster="lab", command="lpush") == 1
        assert proxy.metric("redis_proxy_request_duration_seconds_count", cluster="lab", command="get") == 2
        assert 0 < proxy.metric("redis_proxy_request_duration_seconds_sum", cluster="lab", command="get") < 10
        assert proxy.metric("redis_proxy_client_connections", cluster="lab") == 1
        assert proxy.metric("redis_proxy_slow_requests_total", cluster="lab") > 0


def test_overlord_s_names(proxy: ProxyProcess) -> None:
    with Wire(proxy.port) as wire:
        wire.ask("SET", "m", "v")
        wire.ask("MGET", "m", "n", "o")
        assert proxy.metric("overlord_proxy_conns", cluster="lab") == 1
        assert proxy.metric("overlord_proxy_timer_count", cluster="lab") == 2
        assert proxy.metric("overlord_proxy_handler_timer_count", cluster="lab") == 4
        assert 'overlord_proxy_version{version="' in proxy.page("/metrics")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["LPUSH", "m", "x"], "WRONGTYPE"),
        (["NOSUCH"], "ERR"),
        (["EVALSHA", "0" * 40, "1", "m"], "NOSCRIPT"),
        (["RENAME", "m", "n"], "CROSSSLOT"),
        (["EXEC"], "ERR"),
        (["XREADGROUP", "GROUP", "g", "c", "STREAMS", "none", ">"], "NOGROUP"),
        (["EVAL", "return redis.error_reply('MINE own')", "1", "m"], "other"),
    ],
)
def test_errors_by_code(proxy: ProxyProcess, words: list[str], code: str) -> None:
    with Wire(proxy.port) as wire:
        wire.ask("SET", "m", "v")
        assert wire.ask(*words).startswith(b"-")
    counts = {one: proxy.metric("redis_proxy_error_replies_total", cluster="lab", code=one) for one in CODES}
    assert {one: count for one, count in counts.items() if count} == {code: 1}


def test_how_many_parts_commands_have(proxy: ProxyProcess, cluster: RedisCluster) -> None:
    keys = [f"key:{number}" for number in range(100)]
    with Wire(proxy.port) as wire:
        wire.ask("MGET", *keys)
        wire.ask("DBSIZE")
        wire.ask("GET", "a")
    name = "redis_proxy_fanout_width"
    assert proxy.metric(f"{name}_count", cluster="lab") == 2
    assert proxy.metric(f"{name}_bucket", cluster="lab", le="4.0") == 1
    assert proxy.metric(f"{name}_sum", cluster="lab") >= 6


def test_what_a_server_has_not_answered(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=0, node_timeout=15000)
    proxy = new_proxy(cluster, cluster={"ping_auto_eject": False})
    hung = cluster.master_of("a")
    labels = {"cluster": "lab", "server": str(hung.address)}
    with Wire(proxy.port) as wire:
        wire.ask("SET", "a", 1)
        proxy.wait_for_metric("redis_proxy_server_ping_seconds", 1e-6, **labels)
        hung.pause()
        try:
            wire.send(pack("GET", "a") * 7)
            wait_until("they wait", lambda: proxy.metric("redis_proxy_server_queued_requests", **labels) == 7)
        finally:
            hung.resume()
        wire.replies(7)
        assert proxy.metric("redis_proxy_server_queued_requests", **labels) == 0
        hung.kill()
        wire.send(pack("GET", "a") * 5)
        wait_until("they are parked", lambda: proxy.metric("redis_proxy_parked_requests", cluster="lab") == 5)
    wait_until("they went", lambda: proxy.metric("redis_proxy_parked_requests", cluster="lab") == 0)


def test_where_the_time_of_workers_goes(proxy: ProxyProcess) -> None:
    def spent() -> dict[tuple[str, str], float]:
        return {
            (worker, state): proxy.metric("redis_proxy_worker_seconds_total", worker=worker, state=state)
            for worker in "01"
            for state in STATES
        }

    before, began = spent(), time.monotonic()
    with Wire(proxy.port) as wire:
        for _ in range(1000):
            wire.ask("GET", "a")
    after, passed = spent(), time.monotonic() - began
    moved = {key: after[key] - before[key] for key in before}
    assert all(seconds > 0 for seconds in moved.values())
    # A worker that waits is counted when it wakes up, at least once a second.
    for worker in "01":
        assert sum(moved[worker, state] for state in STATES) < passed + 2
    assert proxy.metric("redis_proxy_turns_total", worker="0") > 0


def test_bytes_of_clients_and_of_servers(proxy: ProxyProcess) -> None:
    with Wire(proxy.port) as wire:
        request = pack("SET", "a", "v" * 1000)
        wire.send(request)
        assert wire.reply() == b"+OK\r\n"
    assert proxy.metric("redis_proxy_received_bytes_total", peer="client") == len(request)
    assert proxy.metric("redis_proxy_sent_bytes_total", peer="client") == 5
    assert proxy.metric("redis_proxy_received_bytes_total", peer="server") == 5
    assert proxy.metric("redis_proxy_sent_bytes_total", peer="server") == len(request)


def test_the_process_and_the_topology(proxy: ProxyProcess) -> None:
    assert proxy.metric("redis_proxy_topology_slots_covered", cluster="lab") == 16384
    assert proxy.metric("redis_proxy_topology_servers", cluster="lab", role="master") == 3
    assert proxy.metric("redis_proxy_topology_servers", cluster="lab", role="replica") == 3
    assert proxy.metric("redis_proxy_ready") == 1
    assert proxy.metric("redis_proxy_build_info") == 1
    assert proxy.metric("redis_proxy_buffer_limit_bytes") > 0
    assert proxy.metric("process_resident_memory_bytes") > 0


def test_prometheus_has_nothing_to_say_against_it(proxy: ProxyProcess) -> None:
    with Wire(proxy.port) as wire:
        wire.ask("MSET", "a", 1, "b", 2)
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=proxy.page("/metrics"),
        capture_output=True,
        text=True,
        check=False,
    )
    # Overlord's names are kept as they are; so are those of the Python client.
    complaints = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if not line.startswith(("overlord_", "process_", "python_"))
    ]
    assert complaints == []


@pytest.mark.parametrize("file", ["prometheus/redis-proxy.rules.yml", "grafana/redis-proxy.json"])
def test_what_rules_and_dashboard_ask_for_is_there(proxy: ProxyProcess, file: str) -> None:
    asked = set(re.findall(r"(?<![:\w])(?:redis_proxy|process)_[a-z_]+", (TEMPLATES / file).read_text()))
    assert len(asked) > 10
    with Wire(proxy.port) as wire:
        wire.ask("GET", "a")
    proxy.wait_for_metric("redis_proxy_server_ping_seconds", 1e-6)
    there = {
        sample.name
        for family in text_string_to_metric_families(proxy.page("/metrics"))
        for sample in family.samples
    }
    assert {one for one in asked if f"{one}_bucket" not in there} <= there


def test_labels_are_not_clients_to_make_up(proxy: ProxyProcess) -> None:
    before = len(proxy.page("/metrics").splitlines())
    with Wire(proxy.port) as wire:
        for number in range(100):
            wire.ask(f"NOSUCH{number}")
            wire.ask("EVAL", f"return redis.error_reply('E{number} x')", "1", "a")
    assert len(proxy.page("/metrics").splitlines()) < before + 50


def test_without_use_metrics_there_is_no_page(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, proxy={"use_metrics": False})
    assert "no such page" in proxy.page("/metrics")
