"""The same commands to the proxy and to one plain redis-server give the same bytes."""

import itertools
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.control import pack
from tests.cluster.wire import Wire

Command = tuple[bytes, ...]

# Keys a..d lie in four slots of three servers; those with a tag share one.
KEYS = [b"a", b"b", b"c", b"d"]
TAGGED = [b"{t}1", b"{t}2", b"{t}3"]
key = st.sampled_from(KEYS + TAGGED)
tagged = st.sampled_from(TAGGED)
value = st.one_of(st.binary(max_size=30), st.integers(-1000, 1000).map(lambda n: b"%d" % n))
number = st.integers(-5, 20).map(lambda n: b"%d" % n)
field = st.sampled_from([b"f", b"g", b"h"])
score = st.sampled_from([b"1", b"2.5", b"-inf", b"3"])


def command(name: str, *parts: st.SearchStrategy[Any] | bytes) -> st.SearchStrategy[Command]:
    words = [part if isinstance(part, st.SearchStrategy) else st.just(part) for part in parts]
    return st.tuples(st.just(name.encode()), *words).map(_flat)


def _flat(words: tuple[Any, ...]) -> Command:
    found: list[bytes] = []
    for word in words:
        found.extend(word if isinstance(word, list | tuple) else [word])
    return tuple(found)


keys = st.lists(key, min_size=1, max_size=6)
strings = st.one_of(
    command("SET", key, value),
    command("set", key, value, st.sampled_from([b"NX", b"XX", b"GET", b"KEEPTTL", b"BOGUS"])),
    command("GET", key),
    command("GETDEL", key),
    command("APPEND", key, value),
    command("INCRBY", key, number),
    command("INCRBYFLOAT", key, score),
    command("STRLEN", key),
    command("SETRANGE", key, number, value),
    command("GETRANGE", key, number, number),
    command("SETBIT", key, number, st.sampled_from([b"0", b"1", b"2"])),
    command("BITCOUNT", key),
    command("BITFIELD", key, b"INCRBY", b"u8", b"0", number),
    command("LCS", tagged, tagged),
)
across = st.one_of(
    command("MGET", keys),
    command(
        "MSET",
        st.lists(st.tuples(key, value), min_size=1, max_size=5).map(
            lambda p: [w for pair in p for w in pair]
        ),
    ),
    command("DEL", keys),
    command("UNLINK", keys),
    command("EXISTS", keys),
    command("TOUCH", keys),
)
hashes = st.one_of(
    command(
        "HSET",
        key,
        st.lists(st.tuples(field, value), min_size=1, max_size=3).map(
            lambda p: [w for pair in p for w in pair]
        ),
    ),
    command("HGET", key, field),
    command("HGETALL", key),
    command("HMGET", key, st.lists(field, min_size=1, max_size=3)),
    command("HINCRBY", key, field, number),
    command("HDEL", key, field),
    command("HLEN", key),
    command("HSCAN", key, b"0"),
)
lists = st.one_of(
    command("RPUSH", key, st.lists(value, min_size=1, max_size=4)),
    command("LPOP", key),
    command("LPOP", key, number),
    command("LRANGE", key, number, number),
    command("LINSERT", key, st.sampled_from([b"BEFORE", b"AFTER"]), value, value),
    command("LPOS", key, value),
    command("LMOVE", tagged, tagged, b"LEFT", b"RIGHT"),
    command("RPOPLPUSH", tagged, tagged),
    command("LMPOP", b"2", tagged, tagged, b"LEFT"),
)
sets = st.one_of(
    command("SADD", key, st.lists(number, min_size=1, max_size=4)),
    command("SCARD", key),
    command("SMISMEMBER", key, number, number),
    command("SMOVE", tagged, tagged, number),
    command("SINTERCARD", b"2", tagged, tagged),
    command("SINTERSTORE", tagged, tagged, tagged),
)
sorted_sets = st.one_of(
    command("ZADD", key, score, field),
    command("ZADD", key, st.sampled_from([b"GT", b"NX", b"CH"]), score, field),
    command("ZSCORE", key, field),
    command("ZMSCORE", key, field, field),
    command("ZRANGE", key, number, number, b"WITHSCORES"),
    command("ZRANK", key, field),
    command("ZINCRBY", key, score, field),
    command("ZPOPMIN", key),
    command("ZUNIONSTORE", tagged, b"2", tagged, tagged),
    command("ZUNION", b"2", tagged, tagged, b"WITHSCORES"),
    command("ZRANGESTORE", tagged, tagged, b"0", b"-1"),
)
others = st.one_of(
    command("GEOADD", key, b"13.361389", b"38.115556", field),
    command("GEOPOS", key, field),
    command("GEOSEARCH", key, b"FROMLONLAT", b"15", b"37", b"BYRADIUS", b"200", b"km", b"ASC", b"WITHDIST"),
    command("PFADD", key, value),
    command("PFCOUNT", key),
    command("XADD", key, st.integers(1, 9).map(lambda n: b"%d-1" % n), field, value),
    command("XLEN", key),
    command("XRANGE", key, b"-", b"+"),
    command("XINFO", b"STREAM", key),
    command("XGROUP", b"CREATE", key, field, b"0"),
    command("TYPE", key),
    command("OBJECT", b"ENCODING", key),
    command("EXPIRE", key, b"1000"),
    command("PERSIST", key),
    command("RENAME", tagged, tagged),
    command("COPY", tagged, tagged, b"REPLACE"),
    command("SORT", key),
    command("DUMP", key),
    command("PING"),
    command("ping", value),
    command("ECHO", value),
)
wrong = st.one_of(
    command("GET"),
    command("GET", key, key),
    command("MSET", key),
    command("MGET"),
    command("OBJECT", b"NOSUCH", key),
    command("NOSUCH", value),
    command("SET", key, value, b"EX", b"0"),
    command("SELECT", b"x"),
    command("SELECT", b"0"),
)
any_command = st.one_of(strings, across, hashes, lists, sets, sorted_sets, others, wrong)
examples = itertools.count()


def run(port: int, stream: list[Command], cuts: list[int], *, resp3: bool) -> list[bytes]:
    data = b"".join(pack(*one) for one in stream)
    marks = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    with Wire(port) as wire:
        if resp3:
            wire.ask("HELLO", "3")
        for start, end in pairwise(marks):
            wire.send(data[start:end])
        return wire.replies(len(stream))


@settings(
    max_examples=1500,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    stream=st.lists(any_command, min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 100_000), max_size=10),
    resp3=st.booleans(),
)
def test_replies_are_those_of_a_plain_server(
    shared_proxy: Any, plain: Any, stream: list[Command], cuts: list[int], resp3: bool
) -> None:
    # Fresh keys for each example, the same on both sides; the tags stay what they are.
    prefix = b"%d:" % next(examples)
    own = {one: prefix + one for one in KEYS + TAGGED}
    stream = [tuple(own.get(word, word) for word in one) for one in stream]
    assert run(shared_proxy.port, stream, cuts, resp3=resp3) == run(
        plain.address.port, stream, [], resp3=resp3
    )
