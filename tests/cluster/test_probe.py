"""-probe: does the proxy of these files serve?"""

import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster

Proxies = Callable[..., ProxyProcess]


def probe(proxy: ProxyProcess) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", "-probe", "-cluster", str(proxy.cluster_file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_proxy_that_serves(shared_proxy: ProxyProcess) -> None:
    result = probe(shared_proxy)
    assert result.stdout.startswith(f"cluster lab on 127.0.0.1:{shared_proxy.port}: 256 keys read in ")
    assert result.returncode == 0


def test_a_unix_listener(cluster: RedisCluster, new_proxy: Proxies, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    result = probe(new_proxy(cluster, cluster={"listen_proto": "unix", "listen_addr": path}))
    assert result.stdout.startswith(f"cluster lab on {path}: 256 keys read in ")


HASHED = f"eve:#{sha256(b'secret').hexdigest()}"


@pytest.mark.parametrize(
    ("users", "found"),
    [
        ({"client_password": "secret"}, "256 keys read in "),
        ({"client_users": [HASHED, "bob:builder"]}, "256 keys read in "),
        ({"client_users": [HASHED]}, "answered in "),
    ],
)
def test_clients_that_must_authenticate(
    cluster: RedisCluster, new_proxy: Proxies, users: Mapping[str, Any], found: str
) -> None:
    proxy = new_proxy(cluster, cluster=users)
    result = probe(proxy)
    assert result.stdout.startswith(f"cluster lab on 127.0.0.1:{proxy.port}: {found}"), result.stderr
    assert result.returncode == 0


def test_a_password_that_the_proxy_does_not_take(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, cluster={"client_password": "secret"})
    proxy.configure(cluster={"client_password": "another"})  # and no reload
    result = probe(proxy)
    assert result.returncode == 1
    assert "WRONGPASS" in result.stderr
    assert "another" not in result.stderr


def test_nobody_listens(cluster: RedisCluster) -> None:
    proxy = ProxyProcess(cluster.addresses)
    proxy.configure()  # its files are there, and no process
    result = probe(proxy)
    assert result.returncode == 1
    assert (
        f"cluster lab on 127.0.0.1:{proxy.port}: 127.0.0.1:{proxy.port}: Connection refused" in result.stderr
    )


@pytest.mark.timeout(60)
def test_a_listener_that_serves_nobody(cluster: RedisCluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = ProxyProcess(cluster.addresses, port=listener.getsockname()[1])
        proxy.configure()
        result = probe(proxy)
    assert result.returncode == 1
    assert "no answer in time" in result.stderr


def test_a_shard_that_is_not_served(new_cluster: Callable[..., RedisCluster], new_proxy: Proxies) -> None:
    broken = new_cluster(replicas=0)
    proxy = new_proxy(broken, cluster={"read_timeout": 500})
    broken.nodes[0].kill()
    result = probe(proxy)
    assert result.returncode == 1
    assert f"cluster lab on 127.0.0.1:{proxy.port}: " in result.stderr
