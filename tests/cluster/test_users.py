"""Clients that must authenticate, and what they may do before."""

from collections.abc import Callable, Iterator
from hashlib import sha256

import pytest
import redis

from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster, RedisServer
from proxy.control import pack
from tests.cluster.wire import Wire

Proxies = Callable[..., ProxyProcess]

NOAUTH = b"-NOAUTH Authentication required.\r\n"


@pytest.fixture
def plain_with_password() -> Iterator[RedisServer]:
    with RedisServer() as server:
        server.call("ACL", "SETUSER", "app", "on", ">other", "~*", "&*", "+@all")
        server.call("CONFIG", "SET", "requirepass", "secret")
        yield server


@pytest.fixture
def proxy(cluster: RedisCluster, new_proxy: Proxies) -> ProxyProcess:
    return new_proxy(cluster, cluster={"client_password": "secret", "client_users": ["app:other"]})


STEPS = [
    ("GET", "not there"),
    ("MULTI",),
    ("NOSUCH",),
    ("GET",),
    ("CLIENT", "ID"),
    ("PING",),
    ("SUBSCRIBE", "x"),
    ("HELLO", "3"),
    ("AUTH", "wrong"),
    ("AUTH", "app", "wrong"),
    ("AUTH", "nobody", "secret"),
    ("HELLO", "3", "AUTH", "app", "wrong"),
    ("GET", "not there"),
    ("AUTH", "app", "other"),
    ("ACL", "WHOAMI"),
    ("GET", "not there"),
    ("AUTH", "wrong"),
    ("ACL", "WHOAMI"),
    ("AUTH", "secret"),
    ("ACL", "WHOAMI"),
    ("RESET",),
    ("GET", "not there"),
    ("AUTH", "default", "secret"),
    ("GET", "not there"),
    ("AUTH", "a", "b", "c"),
]


def test_it_is_as_with_a_plain_server(proxy: ProxyProcess, plain_with_password: RedisServer) -> None:
    with Wire(proxy.port) as through, Wire(plain_with_password.address.port) as direct:
        for step in STEPS:
            assert (step, through.ask(*step)) == (step, direct.ask(*step))


def test_a_pipeline_that_begins_with_a_password(proxy: ProxyProcess) -> None:
    with Wire(proxy.port) as wire:
        wire.send(pack("SET", "a", "1") + pack("AUTH", "secret") + pack("SET", "a", "1") + pack("DEL", "a"))
        assert wire.replies(4) == [NOAUTH, b"+OK\r\n", b"+OK\r\n", b":1\r\n"]


def test_a_client_of_a_transaction_that_was_not_let_in(proxy: ProxyProcess) -> None:
    with Wire(proxy.port) as wire:
        wire.send(pack("MULTI") + pack("SET", "a", "1") + pack("EXEC"))
        assert wire.replies(3) == [NOAUTH, NOAUTH, NOAUTH]


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_with_a_user(proxy: ProxyProcess, protocol: int) -> None:
    with redis.Redis(port=proxy.port, username="app", password="other", protocol=protocol) as client:
        assert client.set("a", "1")
        assert client.acl_whoami() in (b"app", "app")
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=proxy.port, password="wrong", protocol=protocol).ping()


def test_users_change_by_a_reload(cluster: RedisCluster, new_proxy: Proxies) -> None:
    """Who is in stays in; whoever comes now needs the new password."""
    proxy = new_proxy(cluster)
    with Wire(proxy.port) as early, Wire(proxy.port) as asked:
        assert asked.ask("CLIENT", "ID").startswith(b":")
        assert early.ask("GET", "nothing") == b"$-1\r\n"
        digest = sha256(b"other").hexdigest()
        proxy.configure(cluster={"client_users": [f"app:#{digest}"]})
        proxy.reload()
        assert early.ask("GET", "nothing") == asked.ask("GET", "nothing") == b"$-1\r\n"
        with Wire(proxy.port) as late:
            assert late.ask("GET", "nothing") == NOAUTH
            assert late.ask("AUTH", "app", "other") == b"+OK\r\n"
            assert late.ask("GET", "nothing") == b"$-1\r\n"
    assert "secret" not in proxy.log()
