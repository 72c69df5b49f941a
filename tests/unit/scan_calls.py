"""Calls of SCAN, step by step: what is sent to servers, and what their replies make of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import pytest

from proxy.address import Address
from proxy.answers import Client, Context, answer
from proxy.fanout import Fanout, PartReply
from proxy.reply import array, bulk
from proxy.resp import RequestScanner
from proxy.resp_values import content, elements
from proxy.slots import slot_of
from proxy.topology import Shard, Topology

BUCKETS = 16
CLIENT = Client(1, "127.0.0.1:5555", "127.0.0.1:6379")


@dataclass
class Known:
    """What SCAN asks of its context."""

    topology: Topology | None

    def refresh(self, reason: str) -> None:
        pass


def shard(port: int, *ranges: tuple[int, int]) -> Shard:
    return Shard(Address("10.0.0.1", port), ranges)


def scan(context: Known, *args: str | int) -> Fanout | bytes:
    found = answer(CLIENT, cast(Context, context), [b"SCAN", *(str(arg).encode() for arg in args)])
    assert isinstance(found, Fanout | bytes)
    return found


def requests(fanout: Fanout) -> list[tuple[int, list[bytes]]]:
    """The slot each request is addressed by, and the request as the server reads it."""
    found = []
    for slot, request in fanout.parts:
        (args,) = RequestScanner().feed(request)
        assert isinstance(args, list)
        found.append((slot, args))
    return found


def requested(fanout: Fanout) -> list[bytes]:
    """The one request."""
    ((_, args),) = requests(fanout)
    return args


def given_by(cursor: int, *keys: str) -> bytes:
    return array([bulk(str(cursor)), array([bulk(key) for key in keys])])


def read(reply: bytes) -> tuple[int, list[bytes]]:
    cursor, keys = elements(reply)
    return int(content(cursor)), [content(key) for key in elements(keys)]


@contextmanager
def steps_of_a_call(limit: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proxy.answers.scan.STEPS", limit)
        yield


def merged(fanout: Fanout | bytes, reply: bytes, port: int, *others: tuple[bytes, int]) -> bytes:
    """The reply to a call that ends with this step."""
    assert isinstance(fanout, Fanout)
    with steps_of_a_call(1):
        page = fanout.merge([PartReply(f"10.0.0.1:{at}", each) for each, at in [(reply, port), *others]])
    assert isinstance(page, bytes)
    return page


def after_steps(call: Fanout | bytes, *steps: tuple[str, bytes, int]) -> Fanout | bytes:
    """What a call has come to after these steps: the request of each, the reply, and the server's port."""
    for request, reply, port in steps:
        assert isinstance(call, Fanout)
        assert requested(call) == request.encode().split()
        call = call.merge([PartReply(f"10.0.0.1:{port}", reply)])
    return call


def page_after(call: Fanout | bytes, *steps: tuple[str, bytes, int]) -> tuple[int, list[bytes]]:
    """The same, where the call ends with them: its cursor and keys."""
    page = after_steps(call, *steps)
    assert isinstance(page, bytes)
    return read(page)


def nodes(*slots: str) -> bytes:
    """CLUSTER NODES of a server that has these slots, and knows of another that has all."""
    return bulk(
        "b0 10.0.0.1:90@19090 master - 0 1426238316232 2 connected 0-16383\n"
        f"a0 10.0.0.1:91@19091,host myself,master - 0 0 1 connected {' '.join(slots)}\n"
    )


def verified(context: Known, cursor: int, port: int, *slots: str) -> int:
    """The cursor that follows when the server that was scanned says that it has these slots."""
    fanout = scan(context, cursor, "COUNT", 5)
    assert isinstance(fanout, Fanout)
    assert fanout.readonly
    assert requested(fanout) == [b"CLUSTER", b"NODES"]
    after, keys = read(merged(fanout, nodes(*slots), port))
    assert keys == []
    return after


def keys_in(first: int, last: int, count: int = 1) -> list[str]:
    names = (f"key:{number}" for number in range(1_000_000))
    found = (name for name in names if first <= slot_of(name.encode()) <= last)
    return [next(found) for _ in range(count)]
