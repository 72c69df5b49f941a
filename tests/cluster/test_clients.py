"""Real clients at their defaults, which today begin with HELLO 3."""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import redis
import redis.asyncio

from lab.proxy_process import ProxyProcess

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


def test_redis_py_at_its_defaults(shared_proxy: ProxyProcess) -> None:
    with redis.Redis(port=shared_proxy.port) as client:
        assert client.set("py:default", b"\x00\xff")
        assert client.get("py:default") == b"\x00\xff"


def test_redis_py_asyncio(shared_proxy: ProxyProcess) -> None:
    async def session() -> None:
        client = redis.asyncio.Redis(port=shared_proxy.port)
        replies: list[int] = []
        for _ in range(4):
            replies += await asyncio.gather(*(client.incr("py:counter") for _ in range(50)))
        assert sorted(replies) == list(range(1, 201))
        await client.aclose()

    with redis.Redis(port=shared_proxy.port) as client:
        client.delete("py:counter")
    asyncio.run(session())


def test_node_clients(shared_proxy: ProxyProcess) -> None:
    output = run(node(), CLIENTS / "node_redis.js", str(shared_proxy.port))
    assert output.split("\n")[:2] == ["ok node-redis", "ok ioredis"]


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
