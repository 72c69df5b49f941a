"""Real clients at their defaults, which today begin with HELLO 3."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
import redis.asyncio

from lab.processes import free_ports
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster

CLIENTS = Path(__file__).parent.parent / "clients"


def run(*command: str | Path, text: str = "") -> str:
    result = subprocess.run(
        [str(word) for word in command], input=text, capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout + result.stderr


def node() -> str:
    """The Node.js that set-up put beside the clients where the system's is too old for them, or that one."""
    own = next(CLIENTS.glob("node_modules/node-linux-*/bin/node"), None)
    return str(own) if own else "node"


def test_redis_cli_shows_the_seeds_session(shared_proxy: ProxyProcess) -> None:
    port = str(shared_proxy.port)
    assert run("redis-cli", "-p", port, "MSET", "a", "a-value", "b", "b-value", "c", "c-value") == "OK\n"
    assert run("redis-cli", "-p", port, "MGET", "a", "b", "c") == "a-value\nb-value\nc-value\n"
    assert run("redis-cli", "-3", "-p", port, "MGET", "a", "b", "none") == "a-value\nb-value\n\n"
    assert run("redis-cli", "-p", port, text="PING\nINFO server\nSELECT 0\n").startswith("PONG\n")


@pytest.mark.parametrize("depth", ["1", "16"])
def test_redis_benchmark_runs_clean(shared_proxy: ProxyProcess, depth: str) -> None:
    output = run(
        "redis-benchmark",
        "-p",
        str(shared_proxy.port),
        "-t",
        "get,set,mset",
        "-n",
        "20000",
        "-r",
        "1000",
        "-P",
        depth,
        "-q",
    )
    assert len(re.findall(r"requests per second", output)) >= 3
    assert not re.search(r"error|warn|could not", output, re.IGNORECASE), output


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py(shared_proxy: ProxyProcess, protocol: int) -> None:
    with redis.Redis(
        port=shared_proxy.port, protocol=protocol, decode_responses=True, client_name="tests"
    ) as client:
        assert client.ping()
        assert client.mset({"py:a": "1", "py:b": "2"})
        assert client.mget(["py:a", "py:b", "py:none"]) == ["1", "2", None]
        client.hset("py:h", mapping={"f": "v"})
        assert client.hgetall("py:h") == {"f": "v"}
        client.zadd("py:z", {"m": 1.5})
        assert client.zscore("py:z", "m") == 1.5
        assert client.client_getname() == "tests"
        pipeline = client.pipeline(transaction=False)
        for i in range(300):
            pipeline.set(f"py:{i}", i)
        for i in range(300):
            pipeline.get(f"py:{i}")
        assert pipeline.execute() == [True] * 300 + [str(i) for i in range(300)]
        assert client.delete("py:a", "py:b", "py:h", "py:z") == 4
        with pytest.raises(redis.ResponseError, match="unknown command"):
            client.execute_command("NOSUCH")
        assert client.info("server")["redis_mode"] == "standalone"


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_beyond_single_commands(shared_proxy: ProxyProcess, protocol: int) -> None:
    """Transactions with WATCH, a lock, blocking, scripts, publish and subscribe, SCAN."""
    with redis.Redis(port=shared_proxy.port, protocol=protocol, decode_responses=True) as client:
        client.delete("py:stock", "py:list")
        client.transaction(
            lambda pipe: pipe.multi() or pipe.incr("py:stock"),
            "py:stock",
        )
        assert client.get("py:stock") == "1"
        with client.lock("py:lock", timeout=5):
            assert client.lock("py:lock").acquire(blocking=False) is False
        assert client.blpop(["py:list"], timeout=0.05) is None
        client.rpush("py:list", "v")
        assert list(client.blpop(["py:list"], timeout=5)) == ["py:list", "v"]
        script = client.register_script("return {KEYS[1], ARGV[1]}")
        assert script(keys=["py:k"], args=["x"]) == ["py:k", "x"]
        with client.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe("py:news")
            pubsub.psubscribe("py:n*")
            assert pubsub.get_message(timeout=1) is None
            assert client.publish("py:news", "hello") == 2
            kinds = set[str]()
            while kinds != {"message", "pmessage"}:
                message = pubsub.get_message(timeout=5)
                kinds |= {message["type"]} if message else set()
        client.mset({f"py:scan:{number}": "x" for number in range(50)})
        assert len(set(client.scan_iter("py:scan:*"))) == 50


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_s_cluster_client(shared_proxy: ProxyProcess, protocol: int) -> None:
    """It finds one node with all slots: the proxy."""
    with redis.RedisCluster(
        host="127.0.0.1", port=shared_proxy.port, protocol=protocol, decode_responses=True
    ) as client:
        assert [node.port for node in client.get_nodes()] == [shared_proxy.port]
        assert client.mset_nonatomic({f"pyc:{number}": number for number in range(50)})
        assert client.get("pyc:7") == "7"
        with client.pipeline() as pipe:
            pipe.set("pyc:p", "1")
            pipe.get("pyc:p")
            assert pipe.execute() == [True, "1"]
        assert client.cluster_info()["cluster_state"] == "ok"
        assert len(set(client.scan_iter("pyc:*"))) == 51
        assert client.delete("pyc:p") == 1


def test_redis_cli_as_a_cluster_client(cluster: RedisCluster, new_proxy: Callable[..., ProxyProcess]) -> None:
    (free,) = free_ports(1)
    proxy = new_proxy(cluster, port=free, cluster={"announce_addr": f"127.0.0.1:{free}"})
    port = str(proxy.port)
    assert run("redis-cli", "-c", "-p", port, text="SET cli:a 1\nSET cli:b 2\nGET cli:a\n") == "OK\nOK\n1\n"
    assert "All 16384 slots covered" in run("redis-cli", "--cluster", "check", f"127.0.0.1:{port}")
    assert sorted(run("redis-cli", "-p", port, "--scan", "--pattern", "cli:*").split()) == ["cli:a", "cli:b"]


def test_redis_py_at_its_defaults(shared_proxy: ProxyProcess) -> None:
    with redis.Redis(port=shared_proxy.port) as client:
        assert client.set("py:default", b"\x00\xff")
        assert client.get("py:default") == b"\x00\xff"


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_asyncio(shared_proxy: ProxyProcess, protocol: int) -> None:
    async def session() -> None:
        client = redis.asyncio.Redis(port=shared_proxy.port, protocol=protocol)
        replies: list[int] = []
        for _ in range(4):
            replies += await asyncio.gather(*(client.incr("py:counter") for _ in range(50)))
        assert sorted(replies) == list(range(1, 201))
        async with client.pubsub() as pubsub:
            await pubsub.subscribe("py:async")
            assert (await pubsub.get_message(timeout=5))["type"] == "subscribe"
            assert await client.publish("py:async", "hello") == 1
            assert (await pubsub.get_message(timeout=5))["data"] == b"hello"
        await client.aclose()

    with redis.Redis(port=shared_proxy.port) as client:
        client.delete("py:counter")
    asyncio.run(session())


def test_node_clients(shared_proxy: ProxyProcess) -> None:
    output = run(node(), CLIENTS / "node_clients.js", str(shared_proxy.port))
    clients = ("node-redis", "node-redis cluster", "ioredis", "ioredis cluster")
    assert output.splitlines() == [f"ok {client}" for client in clients]


@pytest.mark.skipif(shutil.which("memtier_benchmark") is None, reason="memtier_benchmark is not installed")
def test_memtier_runs_clean(shared_proxy: ProxyProcess) -> None:
    output = run(
        "memtier_benchmark",
        "-p",
        str(shared_proxy.port),
        "-t",
        "2",
        "-c",
        "10",
        "-n",
        "2000",
        "--pipeline",
        "8",
        "--hide-histogram",
    )
    assert "Totals" in output
    assert "error" not in output.lower()
