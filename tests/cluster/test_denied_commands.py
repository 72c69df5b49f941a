"""Commands that the configuration denies to clients."""

from collections.abc import Callable, Iterator

import pytest

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from tests.cluster.wire import Wire

Proxies = Callable[..., ProxyProcess]


def denied(name: str) -> bytes:
    return b"-NOPERM '%b' is denied: see denied_commands in the proxy's configuration\r\n" % name.encode()


@pytest.fixture
def wire(cluster: RedisCluster, new_proxy: Proxies) -> Iterator[Wire]:
    words = ["KEYS", "client|kill", "config", "@scripting", "some.module"]
    with Wire(new_proxy(cluster, cluster={"denied_commands": words}).port) as wire:
        yield wire


def test_a_command_is_denied_however_it_is_written(wire: Wire) -> None:
    assert wire.ask("keys", "*") == wire.ask("KEYS", "*") == denied("keys")
    wire.send(b"Keys *\r\n")
    assert wire.reply() == denied("keys")
    assert wire.ask("GET", "none") == b"$-1\r\n"


def test_a_subcommand_alone_and_all_of_a_container(wire: Wire) -> None:
    assert wire.ask("CLIENT", "KILL", "ID", "7") == denied("client|kill")
    assert wire.ask("CLIENT", "ID").startswith(b":")
    assert wire.ask("CONFIG", "GET", "*") == denied("config|get")
    assert wire.ask("CONFIG", "SET", "a", "b") == denied("config|set")


def test_a_category(wire: Wire) -> None:
    assert wire.ask("EVAL", "return 1", 0) == denied("eval")
    assert wire.ask("SCRIPT", "LOAD", "return 1") == denied("script|load")
    assert wire.ask("FCALL", "f", 0) == denied("fcall")


def test_in_a_transaction_it_ends_the_transaction(wire: Wire) -> None:
    assert wire.ask("MULTI") == b"+OK\r\n"
    assert wire.ask("SET", "a", "1") == b"+QUEUED\r\n"
    assert wire.ask("EVAL", "return 1", 0) == denied("eval")
    assert wire.ask("EXEC").startswith(b"-EXECABORT ")
    assert wire.ask("PING") == b"+PONG\r\n"


def test_flushing_is_denied_unless_it_is_allowed(cluster: RedisCluster, new_proxy: Proxies) -> None:
    """And a reload is enough to change it, without another connection."""
    proxy = new_proxy(cluster, cluster={"denied_commands": ["flushall", "flushdb"]})
    with Wire(proxy.port) as wire:
        assert wire.ask("FLUSHALL") == denied("flushall")
        assert wire.ask("FLUSHDB") == denied("flushdb")
        assert proxy.metric("redis_proxy_request_errors_total", command="flushall") == 1
        proxy.configure(cluster={"denied_commands": ["get"]})
        assert not proxy.reload()["reload_failed"]
        wait_until("it goes by it", lambda: wire.ask("GET", "a") == denied("get"))
        assert wire.ask("FLUSHALL") == b"+OK\r\n"


def test_what_nobody_names_is_not_denied(cluster: RedisCluster, new_proxy: Proxies) -> None:
    with Wire(new_proxy(cluster, cluster={"denied_commands": []}).port) as wire:
        assert wire.ask("FLUSHALL") == b"+OK\r\n"
        assert wire.ask("EVAL", "return 1", 0) == b":1\r\n"


def test_clients_can_still_authenticate_and_leave(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, cluster={"denied_commands": ["@connection"], "client_password": "a-word"})
    with Wire(proxy.port) as wire:
        assert wire.ask("PING").startswith(b"-NOAUTH ")
        assert wire.ask("AUTH", "a-word") == b"+OK\r\n"
        assert wire.ask("PING") == denied("ping")
        assert wire.ask("HELLO", 3).startswith(b"%")
        assert wire.ask("RESET") == b"+RESET\r\n"
        assert wire.ask("QUIT") == b"+OK\r\n"
