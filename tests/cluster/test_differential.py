"""The same commands to the proxy and to one plain redis-server give the same bytes."""

import itertools
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisServer
from proxy.control import pack
from tests.cluster.command_examples import Words
from tests.cluster.random_commands import KEYS, PREPARATIONS, TAGGED, sessions
from tests.cluster.wire import Wire

examples = itertools.count()


@pytest.fixture(scope="module")
def ports(shared_proxy: ProxyProcess, plain: RedisServer) -> tuple[int, int]:
    """The proxy's and a plain server's, both of which know the scripts."""
    found = shared_proxy.port, plain.address.port
    for port in found:
        with Wire(port) as wire:
            for words in PREPARATIONS:
                assert wire.ask(*words).startswith(b"$")
    return found


def run(port: int, stream: Sequence[Words], cuts: list[int], *, resp3: bool) -> list[bytes]:
    data = b"".join(pack(*one) for one in stream)
    marks = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    with Wire(port) as wire:
        if resp3:
            wire.ask("HELLO", "3")
        for start, end in pairwise(marks):
            wire.send(data[start:end])
        return wire.replies(len(stream))


def untimed(reply: bytes) -> bytes:
    """The dump of a stream without what it holds: it tells when a consumer was last seen."""
    return re.sub(rb"(?s)\A(\$\d+\r\n\x13).*", rb"\1", reply)


@pytest.mark.timeout(600)  # when it fails, the example is made smaller first
@settings(
    max_examples=2000,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    stream=sessions,
    cuts=st.lists(st.integers(0, 100_000), max_size=10),
    resp3=st.booleans(),
)
def test_replies_are_those_of_a_plain_server(
    ports: tuple[int, int], stream: list[Words], cuts: list[int], resp3: bool
) -> None:
    # Fresh keys for each example, the same on both sides; the tags stay what they are.
    prefix = b"%d:" % next(examples)
    own = {one: prefix + one for one in KEYS + TAGGED}
    stream = [tuple(own.get(word, word) for word in one) for one in stream]
    proxy, plain = ports
    found = run(proxy, stream, cuts, resp3=resp3)
    expected = run(plain, stream, [], resp3=resp3)
    replies = (map(untimed, found), map(untimed, expected))
    different = ((words, *both) for words, *both in zip(stream, *replies, strict=True))
    assert next((one for one in different if one[1] != one[2]), None) is None
