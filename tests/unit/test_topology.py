"""What CLUSTER SLOTS replies are taken for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.address import Address
from proxy.topology import SLOTS, Shard, Topology, parse_slots

ASKED = Address("10.0.0.1", 7000)


def node(host: bytes | None, port: int = 6379) -> list[object]:
    return [host, port, b"id", []]


def test_ranges_of_a_master_are_gathered_with_its_replicas() -> None:
    reply = [
        [5461, 16383, node(b"b"), node(b"c")],
        [0, 99, node(b"a"), node(b"d")],
        [100, 5460, node(b"a"), node(b"e"), node(b"d")],
    ]
    topology = parse_slots(reply, ASKED, "7.0.15")
    a, b, c, d, e = (Address(name, 6379) for name in "abcde")
    assert topology == Topology(
        (Shard(a, ((0, 99), (100, 5460)), (d, e)), Shard(b, ((5461, 16383),), (c,))), "7.0.15"
    )
    assert topology.covered
    assert topology.masters == (a, b)
    assert set(topology.servers) == {a, b, c, d, e}


@pytest.mark.parametrize("host", [b"", None])
def test_a_server_without_a_host_is_where_we_asked(host: bytes | None) -> None:
    assert parse_slots([[0, 16383, node(host, 7001)]], ASKED).masters == (Address("10.0.0.1", 7001),)


@pytest.mark.parametrize("unknown", [node(b"?"), node(b"a", 0)])
def test_a_server_that_cannot_be_named_leaves_its_slots_uncovered(unknown: list[object]) -> None:
    topology = parse_slots([[0, 9, unknown], [10, 16383, node(b"a"), unknown]], ASKED)
    assert topology.slots_covered == SLOTS - 10
    assert not topology.covered
    assert topology.servers == (Address("a", 6379),)


@pytest.mark.parametrize(
    "reply", [None, b"x", [[1]], [[0, 16384, node(b"a")]], [[5, 4, node(b"a")]], [[0, 1, [b"a"]]], [3]]
)
def test_what_is_no_reply_is_refused(reply: object) -> None:
    with pytest.raises(ValueError, match=r"^10\.0\.0\.1:7000: not a reply to CLUSTER SLOTS"):
        parse_slots(reply, ASKED)


values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.integers() | st.binary(), lambda children: st.lists(children, max_size=5), max_leaves=20
)


@given(values)
def test_anything_is_a_topology_or_an_error(reply: object) -> None:
    try:
        topology = parse_slots(reply, ASKED)
    except ValueError:
        return
    assert topology.slots_covered >= 0
