"""Addresses: what is read, what is written, what is refused and why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.address import Address

PORTS = st.integers(1, 65535)
HOSTS = st.one_of(
    st.ip_addresses().map(str),
    st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{1,10}){0,3}", fullmatch=True),
)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:6379", "127.0.0.1", 6379),
        (
            "mycluster.clustercfg.use1.cache.amazonaws.com:6379",
            "mycluster.clustercfg.use1.cache.amazonaws.com",
            6379,
        ),
        ("redis_1:1", "redis_1", 1),
        ("Example.:65535", "Example.", 65535),
        ("[::1]:6379", "::1", 6379),
        ("[0:0:0:0:0:0:0:1]:6379", "::1", 6379),
        ("[2001:DB8::1]:6379", "2001:db8::1", 6379),
        ("[fe80::1%eth0]:6379", "fe80::1%eth0", 6379),
    ],
)
def test_parse(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize("text", ["6379", ":6379"])
def test_parse_default_host(text: str) -> None:
    assert Address.parse(text, default_host="0.0.0.0") == Address("0.0.0.0", 6379)
    with pytest.raises(ValueError, match=r"not host:port|no host"):
        Address.parse(text)


def test_default_host_is_only_a_default() -> None:
    assert Address.parse("127.0.0.1:1", default_host="0.0.0.0") == Address("127.0.0.1", 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not host:port"),
        ("myhost", "not host:port"),
        (":6379", "no host before the colon"),
        ("myhost:", "no port after the colon"),
        ("myhost:70000", r"port 70000 is not in 1\.\.65535"),
        ("myhost:0", r"port 0 is not in 1\.\.65535"),
        ("myhost:-1", "port '-1' is not a number"),
        ("myhost:٣", "is not a number"),
        ("myhost:redis", "port 'redis' is not a number"),
        (f"myhost:{'9' * 5000}", "is not a number"),
        ("::1:6379", "more than one colon; an IPv6 address needs brackets"),
        ("host:6379:1", "more than one colon"),
        ("[::1:6379", "not closed"),
        ("[::1]", "no port"),
        ("[::1]6379", "no port"),
        ("[]:6379", "not an IPv6 address"),
        ("[127.0.0.1]:6379", "'127.0.0.1' is not an IPv6 address"),
        ("[::1%\n]:6379", "not an IPv6 address"),
        ("300.1.1.1:6379", "'300.1.1.1' is not an IPv4 address"),
        ("1.2.3:6379", "'1.2.3' is not an IPv4 address"),
        ("my host:6379", "'my host' is neither an IP address nor a host name"),
        ("-host:6379", "neither"),
        ("a..b:6379", "neither"),
        ("höst:6379", "neither"),
        (f"{'a' * 64}:6379", "neither"),
        (f"{'a.' * 130}a:6379", "neither"),
        ("host\n:6379", "neither"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Address.parse(text)


@given(HOSTS, PORTS)
def test_what_is_written_is_read_back(host: str, port: int) -> None:
    address = Address(host, port)
    assert Address.parse(str(address)) == address


@given(st.one_of(st.text(), st.text(alphabet="[]:.0123456789af%\n -")))
def test_any_text_is_an_address_or_a_reason(text: str) -> None:
    for default in (None, "0.0.0.0"):
        reason = ""
        try:
            address = Address.parse(text, default_host=default)
        except ValueError as error:
            reason = str(error)
        if reason:
            assert len(reason.splitlines()) == 1
        else:
            assert 1 <= address.port <= 65535
            assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        ("0.0.0.0:1", "127.0.0.1:1", True),
        ("0.0.0.0:1", "127.0.0.1:2", False),
        ("0.0.0.0:1", "[::1]:1", False),
        ("0.0.0.0:1", "[::]:1", True),
        ("[::]:1", "127.0.0.1:1", True),
        ("[::]:1", "[::1]:1", True),
        ("[::1]:1", "[::2]:1", False),
        ("localhost:1", "127.0.0.1:1", True),
        ("Example.com.:1", "example.com:1", True),
    ],
)
def test_overlaps(one: str, other: str, clash: bool) -> None:
    a, b = Address.parse(one), Address.parse(other)
    assert a.overlaps(b) is clash
    assert b.overlaps(a) is clash


def test_addresses_sort_and_hash() -> None:
    assert sorted([Address("b", 1), Address("a", 2), Address("a", 1)]) == [
        Address("a", 1),
        Address("a", 2),
        Address("b", 1),
    ]
    assert len({Address("a", 1), Address("a", 1)}) == 1
