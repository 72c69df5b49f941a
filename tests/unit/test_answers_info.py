"""INFO: the proxy's sections, and sums over masters that are asked no more often than once a second."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from proxy.address import Address
from proxy.answers import SECTIONS, Client, Fanout, answer
from proxy.topology import Shard, Topology
from tests.unit.context import FACTS, StubContext, cluster_config, reply_to, settled

TOPOLOGY = Topology(
    (
        Shard(Address("a", 1), ((5, 8191),), (Address("r", 1), Address("r", 2))),
        Shard(Address("b", 1), ((0, 4), (8192, 16383)), (Address("r", 3),)),
    )
)


def info_reply(protocol: int, **fields: object) -> bytes:
    text = "# Memory\r\n" + "".join(f"{name}:{value}\r\n" for name, value in fields.items())
    if protocol == 3:
        return f"={len(text) + 4}\r\ntxt:{text}\r\n".encode()
    return f"${len(text)}\r\n{text}\r\n".encode()


def masters(protocol: int) -> dict[int, bytes]:
    """What the two masters reply, by the slots they are asked by."""
    return {
        5: info_reply(
            protocol,
            used_memory=1000,
            maxmemory=5000,
            connected_clients=3,
            instantaneous_ops_per_sec=10,
            keyspace_hits=7,
            keyspace_misses=2,
            expired_keys=1,
            evicted_keys=0,
            db0="keys=10,expires=1,avg_ttl=1000",
        ),
        0: info_reply(
            protocol,
            used_memory=2000,
            maxmemory=6000,
            connected_clients=4,
            instantaneous_ops_per_sec=20,
            keyspace_hits=1,
            keyspace_misses=1,
            expired_keys=2,
            evicted_keys=4,
            db0="keys=20,expires=3,avg_ttl=2000,subexpiry=0",
        ),
    }


@pytest.fixture(params=[2, 3])
def client(request: pytest.FixtureRequest) -> Client:
    return Client(7, "127.0.0.1:5555", "127.0.0.1:6379", protocol=request.param)


@pytest.fixture
def context() -> StubContext:
    return StubContext(topology=TOPOLOGY)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time as INFO sees it, in seconds."""
    now = [100.0]
    monkeypatch.setattr("proxy.answers.info.monotonic", lambda: now[0])
    return now


def parsed(reply: bytes) -> dict[str, dict[str, str]]:
    """INFO's sections."""
    text = reply.partition(b"\r\n")[2].removesuffix(b"\r\n").removeprefix(b"txt:").decode()
    found = {}
    for section in text.split("\r\n\r\n") if text else []:
        title, *lines = section.splitlines()
        found[title.removeprefix("# ")] = dict(line.split(":", 1) for line in lines)
    return found


def ask(
    client: Client, context: StubContext, *sections: str, servers: Mapping[int, bytes] | None = None
) -> dict[str, dict[str, str]]:
    reply = reply_to(client, context, [b"INFO", *(section.encode() for section in sections)], servers)
    assert reply.startswith(b"=" if client.protocol == 3 else b"$")
    return parsed(reply)


# --- the proxy's own ---------------------------------------------------------------------------


def test_what_clients_look_for(client: Client) -> None:
    sections = ask(client, StubContext())
    found = {name: value for fields in sections.values() for name, value in fields.items()}
    assert found["redis_version"] == "7.0.15"
    assert found["proxy_version"] == "1.2.3"
    assert found["redis_mode"] == "standalone"
    assert found["arch_bits"] in ("32", "64")
    assert found["loading"] == "0"
    assert found["role"] == "master"
    assert found["cluster_enabled"] == "0"
    assert found["connected_clients"] == "17"
    assert found["maxclients"] == "500"
    assert found["tcp_port"] == "6379"
    assert found["uptime_in_days"] == "1"
    assert int(found["uptime_in_seconds"]) in range(90061, 90161)
    assert int(found["used_memory"]) > 1 << 20


def test_a_cluster_when_an_address_is_announced(client: Client) -> None:
    context = StubContext(cluster_config(announce_addr=Address("lb", 1)))
    assert ask(client, context, "cluster") == {"Cluster": {"cluster_enabled": "1"}}
    assert ask(client, context, "server")["Server"]["redis_mode"] == "cluster"


def test_sections(client: Client) -> None:
    context = StubContext()
    assert ask(client, context, "Cluster") == {"Cluster": {"cluster_enabled": "0"}}
    assert list(ask(client, context, "replication", "CLUSTER", "nonesuch")) == ["Replication", "Cluster"]
    assert ask(client, context, "nonesuch") == {}


def test_stats_of_the_proxy(client: Client) -> None:
    facts = replace(FACTS, accepted=21, rejected=3, bytes_in=400, bytes_out=500)
    context = StubContext(facts=facts, histograms={"get": (5, []), "set": (6, [])})
    assert ask(client, context, "stats") == {
        "Stats": {
            "total_connections_received": "21",
            "total_commands_processed": "11",
            "total_net_input_bytes": "400",
            "total_net_output_bytes": "500",
            "rejected_connections": "3",
        }
    }


@pytest.mark.parametrize("section", ["server", "clients", "memory", "cpu", "replication", "cluster", "x"])
def test_sections_of_the_proxy_need_no_server(client: Client, context: StubContext, section: str) -> None:
    assert isinstance(answer(client, context, [b"INFO", section.encode()]), bytes)


# --- sums over the masters ---------------------------------------------------------------------


def test_sums(client: Client, context: StubContext) -> None:
    found = ask(client, context, servers=masters(client.protocol))
    assert list(found) == list(SECTIONS)
    assert found["Keyspace"] == {"db0": "keys=30,expires=4,avg_ttl=1750"}
    assert found["Servers"] == {
        "masters": "2",
        "replicas": "3",
        "slots_covered": "16384",
        "servers_connected_clients": "7",
        "servers_used_memory": "3000",
        "servers_maxmemory": "11000",
        "servers_keys": "30",
        "servers_ops_per_sec": "30",
        "servers_keyspace_hits": "8",
        "servers_keyspace_misses": "3",
    }
    stats = {"expired_keys": "3", "evicted_keys": "4", "keyspace_hits": "8", "keyspace_misses": "3"}
    assert found["Stats"].items() >= stats.items()


def test_each_name_comes_once(client: Client, context: StubContext) -> None:
    found = ask(client, context, servers=masters(client.protocol))
    names = [name for fields in found.values() for name in fields]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("section", [None, "default", "all", "everything", "keyspace", "stats", "servers"])
def test_what_masters_are_asked(client: Client, context: StubContext, section: str | None) -> None:
    found = answer(client, context, [b"INFO", section.encode()] if section else [b"INFO"])
    assert isinstance(found, Fanout)
    assert [(part.slot, part.request) for part in found.parts] == [
        (5, b"*1\r\n$4\r\nINFO\r\n"),
        (0, b"*1\r\n$4\r\nINFO\r\n"),
    ]
    assert found.readonly


def test_a_cluster_without_keys_or_limits(client: Client, context: StubContext) -> None:
    empty = info_reply(client.protocol, used_memory=5, maxmemory=0)
    found = ask(client, context, "keyspace", "servers", servers={5: empty, 0: masters(client.protocol)[0]})
    assert found["Servers"]["servers_maxmemory"] == "0"
    found = ask(client, StubContext(topology=TOPOLOGY), "keyspace", servers={5: empty, 0: empty})
    assert found == {"Keyspace": {}}


def test_masters_are_asked_once_a_second(client: Client, context: StubContext, clock: list[float]) -> None:
    first = ask(client, context, servers=masters(client.protocol))
    clock[0] += 0.9
    assert ask(client, context)["Servers"] == first["Servers"]
    clock[0] += 0.2
    assert isinstance(answer(client, context, [b"INFO"]), Fanout)
    # Until that one is answered, or for another second, there is the old one.
    assert ask(client, context)["Servers"] == first["Servers"]
    clock[0] += 1.1
    assert isinstance(answer(client, context, [b"INFO"]), Fanout)


def test_each_context_has_its_own(client: Client, context: StubContext, clock: list[float]) -> None:
    ask(client, context, servers=masters(client.protocol))
    assert isinstance(answer(client, StubContext(topology=TOPOLOGY), [b"INFO"]), Fanout)


def test_a_server_that_fails(client: Client, context: StubContext, clock: list[float]) -> None:
    own = {*SECTIONS} - {"Keyspace", "Servers"}
    failing = {**masters(client.protocol), 0: b"-ERR the server could not be reached\r\n"}
    assert set(ask(client, context, servers=failing)) == own
    assert set(ask(client, context)) == own, "it is not asked again at once"
    clock[0] += 1.1
    assert set(ask(client, context, servers=masters(client.protocol))) == {*SECTIONS}


def test_before_there_is_a_topology(client: Client) -> None:
    assert set(ask(client, StubContext())) == {*SECTIONS} - {"Keyspace", "Servers"}


def test_a_reply_that_comes_later_is_in_the_protocol_of_its_time(context: StubContext) -> None:
    client = Client(7, "a:1", "b:2")
    found = answer(client, context, [b"INFO"])
    client.protocol = 3
    assert settled(found, masters(2)).startswith(b"$")
