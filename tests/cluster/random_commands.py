"""Strategies for commands of every family, whose replies depend on nothing but the commands before them.

Left out is what tells of the present time, of chance, of the server or of the whole keyspace; that is in
``tests/data/command_examples.toml``. Commands that need several keys in one slot get keys with one tag.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha1
from typing import Any, Final

from hypothesis import strategies as st

from tests.cluster.command_examples import Words, wrong_numbers_of_arguments

Strategy = st.SearchStrategy[Words]
Family = Callable[[st.SearchStrategy[bytes]], list[Strategy]]
Part = st.SearchStrategy[Any] | str

# Keys a, b and c lie in slots of three servers; those with a tag share one.
KEYS: Final = (b"a", b"b", b"c")
TAGGED: Final = (b"{t}1", b"{t}2", b"{t}3")

SCRIPTS: Final = (
    b"return {KEYS[1], ARGV[1], #KEYS}",
    b"return redis.call('GET', KEYS[1])",
    b"return redis.call('SET', KEYS[1], ARGV[1])",
    b"return redis.pcall('INCR', KEYS[1])",
    b"redis.setresp(3); return redis.call('HGETALL', KEYS[1])",
    b"error('no ' .. ARGV[1])",
)
LIBRARY: Final = b"""#!lua name=tests
redis.register_function('put', function(keys, args) return redis.call('SET', keys[1], args[1]) end)
redis.register_function{
    function_name='look', flags={'no-writes'},
    callback=function(keys, args) return #keys > 0 and redis.pcall('GET', keys[1]) end}
"""
PREPARATIONS: Final[Sequence[Words]] = (
    *((b"SCRIPT", b"LOAD", script) for script in SCRIPTS),
    (b"FUNCTION", b"LOAD", b"REPLACE", LIBRARY),
)
"""What servers must have been told before: SCRIPT LOAD and FUNCTION LOAD."""

DUMPED: Final = b"\x00\x01v\n\x00\x91\x08\xce\xb2\x198\x8a\xce"  # the string "v", by DUMP of Redis 7.0
FAR: Final = "33177117420"  # in the year 3021, in s


def some(strategy: st.SearchStrategy[Any], most: int) -> st.SearchStrategy[Any]:
    return st.lists(strategy, min_size=1, max_size=most)


def maybe(*parts: Part) -> st.SearchStrategy[Any]:
    """These words, or none."""
    return st.one_of(st.just(()), st.tuples(*map(_strategy, parts)))


def either(words: str) -> st.SearchStrategy[Any]:
    """One of these, between bars."""
    return st.sampled_from([tuple(choice.encode().split()) for choice in words.split("|")])


def command(*parts: Part) -> Strategy:
    return st.tuples(*map(_strategy, parts)).map(_flat).map(tuple)


def _strategy(part: Part) -> st.SearchStrategy[Any]:
    return st.just(tuple(part.encode().split())) if isinstance(part, str) else part


def _flat(words: Any) -> list[bytes]:
    if isinstance(words, bytes):
        return [words]
    return [word for part in words for word in _flat(part)]


tagged = st.sampled_from(TAGGED)
value = st.one_of(st.binary(max_size=30), st.integers(-1000, 1000).map(lambda n: b"%d" % n))
number = st.integers(-5, 20).map(lambda n: b"%d" % n)
field = st.sampled_from([b"f", b"g", b"h"])
score = st.sampled_from([b"1", b"2.5", b"-inf", b"3"])
identity = st.integers(1, 9).map(lambda n: b"%d-1" % n)
place = st.sampled_from([(b"13.361389", b"38.115556"), (b"15.087269", b"37.502669"), (b"200", b"0")])
# How many keys follow: the two that do, or what is wrong; not 3, or the next word would be a key elsewhere.
two_keys = st.tuples(either("2|2|2|1|0|-1|x|99"), tagged, tagged)
side = either("LEFT|RIGHT|UP")
least = either("MIN|MAX|NONE")
soon = "0.005"  # seconds that a blocking command waits where there is nothing


def strings(key: st.SearchStrategy[bytes]) -> list[Strategy]:
    condition = either("NX|XX|GET|NX GET|KEEPTTL|PXAT " + FAR + "000|EX 0|BOGUS")
    return [
        command("SET", key, value),
        command("set", key, value, condition),
        command("GET", key),
        command("GETDEL", key),
        command("GETEX", key, either("|PERSIST|EXAT " + FAR + "|EX 0")),
        command("GETSET", key, value),
        command("SETNX", key, value),
        command("SETEX", key, either("0|x"), value),
        command("PSETEX", key, either("0|-1"), value),
        command("APPEND", key, value),
        command("INCR", key),
        command("DECR", key),
        command("INCRBY", key, number),
        command("DECRBY", key, number),
        command("INCRBYFLOAT", key, score),
        command("STRLEN", key),
        command("SETRANGE", key, number, value),
        command("GETRANGE", key, number, number),
        command("SUBSTR", key, number, number),
        command("LCS", tagged, tagged, either("|LEN|IDX|IDX WITHMATCHLEN")),
        command("MSETNX", some(st.tuples(tagged, value), 3)),
    ]


def bitmaps(key: st.SearchStrategy[bytes]) -> list[Strategy]:
    return [
        command("SETBIT", key, number, either("0|1|2")),
        command("GETBIT", key, number),
        command("BITCOUNT", key),
        command("BITCOUNT", key, number, number, either("|BYTE|BIT")),
        command("BITPOS", key, either("0|1|2"), maybe(number, number)),
        command("BITFIELD", key, "INCRBY u8 0", number),
        command("BITFIELD", key, either("OVERFLOW SAT|OVERFLOW FAIL"), "INCRBY i5 #1", number),
        command("BITFIELD_RO", key, "GET", either("u8|i5|u64"), number),
        command("BITOP", either("AND|OR|XOR|NOT"), tagged, some(tagged, 3)),
    ]


def hashes(key: st.SearchStrategy[bytes]) -> list[Strategy]:
    return [
        command("HSET", key, some(st.tuples(field, value), 3)),
        command("HMSET", key, some(st.tuples(field, value), 3)),
        command("HSETNX", key, field, value),
        command("HGET", key, field),
        command("HGETALL", key),
        command("HKEYS", key),
        command("HVALS", key),
        command("HMGET", key, some(field, 3)),
        command("HEXISTS", key, field),
        command("HSTRLEN", key, field),
        command("HINCRBY", key, field, number),
        command("HINCRBYFLOAT", key, field, score),
        command("HDEL", key, some(field, 3)),
        command("HLEN", key),
        command("HSCAN", key, either("0|x"), either("|MATCH f*|COUNT 0")),
    ]


def lists(key: st.SearchStrategy[bytes]) -> list[Strategy]:
    return [
        command("RPUSH", key, some(value, 4)),
        command("LPUSH", key, some(value, 4)),
        command("RPUSHX", key, value),
        command("LPUSHX", key, value),
        command("LPOP", key),
        command("LPOP", key, number),
        command("RPOP", key, maybe(number)),
        command("LLEN", key),
        command("LINDEX", key, number),
        command("LSET", key, number, value),
        command("LREM", key, number, value),
        command("LRANGE", key, number, number),
        command("LTRIM", key, number, number),
        command("LINSERT", key, either("BEFORE|AFTER|BESIDE"), value, value),
        command("LPOS", key, value, maybe("RANK", number), maybe("COUNT", number)),
        command("LMOVE", tagged, tagged, side, side),
        command("RPOPLPUSH", tagged, tagged),
        command("LMPOP", two_keys, side),
        command("LMPOP 1", key, side, maybe("COUNT", number)),
    ]


def sets(key: st.SearchStrategy[bytes]) -> list[Strategy]:
    """Of integers: only those come in an order."""
    return [
        command("SADD", key, some(number, 4)),
        command("SREM", key, some(number, 3)),
        command("SCARD", key),
        command("SMEMBERS", key),
        command("SISMEMBER", key, number),
        command("SMISMEMBER", key, number, number),
        command("SSCAN", key, "0"),
        command("SPOP", key, "20"),
        command("SMOVE", tagged, tagged, number),
        command("SINTERCARD", two_keys),
        command("SINTERCARD 2", tagged, tagged, "LIMIT", number),
        command(either("SINTER|SUNION|SDIFF"), some(tagged, 3)),
        command(either("SINTERSTORE|SUNIONSTORE|SDIFFSTORE"), tagged, some(tagged, 3)),
    ]


def sorted_sets(key: st.SearchStrategy[bytes]) -> list[Strategy]:
    several = "ZINTER|ZUNION|ZDIFF"
    stored = "ZINTERSTORE|ZUNIONSTORE|ZDIFFSTORE"
    return [
        command("ZADD", key, some(st.tuples(score, field), 3)),
        command("ZADD", key, either("GT|LT|NX|XX|CH|INCR|NX GT|NX INCR"), score, field),
        command("ZREM", key, some(field, 3)),
        command("ZSCORE", key, field),
        command("ZMSCORE", key, field, field),
        command("ZCARD", key),
        command("ZCOUNT", key, either("-inf|(1|x"), score),
        command("ZLEXCOUNT", key, "[f", either("+|(h|x")),
        command("ZINCRBY", key, score, field),
        command(either("ZRANK|ZREVRANK"), key, field),
        command("ZRANGE", key, number, number, either("|WITHSCORES|REV|BYSCORE|BYLEX|LIMIT 0 1")),
        command("ZRANGE", key, "-inf +inf BYSCORE", either("|WITHSCORES|LIMIT 1 1|LIMIT 0 -1 WITHSCORES")),
        command("ZREVRANGE", key, number, number, either("|WITHSCORES")),
        command("ZRANGEBYSCORE", key, score, score, either("|WITHSCORES|LIMIT 0 1")),
        command("ZREVRANGEBYSCORE", key, score, score),
        command(either("ZRANGEBYLEX|ZREVRANGEBYLEX"), key, either("- +|+ -|[g (h|x y")),
        command("ZREMRANGEBYRANK", key, number, number),
        command("ZREMRANGEBYSCORE", key, score, score),
        command("ZREMRANGEBYLEX", key, "[f [g"),
        command("ZSCAN", key, "0"),
        command(either("ZPOPMIN|ZPOPMAX"), key, maybe(number)),
        command("ZMPOP", two_keys, least),
        command("ZMPOP 1", key, least, maybe("COUNT", number)),
        command("ZINTERCARD", two_keys),
        command(either(several), two_keys),
        command(either(several), "2", tagged, tagged, "WITHSCORES"),
        command(either(stored), tagged, two_keys),
        command(either(stored), tagged, "2", tagged, tagged, either("WEIGHTS 2 0.5|WEIGHTS 1|AGGREGATE MAX")),
        command("ZRANGESTORE", tagged, tagged, number, number),
    ]


def streams(key: st.SearchStrategy[bytes]) -> list[Strategy]:
    group = either("g|g|g|h")
    consumer = either("c|d")
    return [
        command("XADD", key, either("|NOMKSTREAM|MAXLEN 2|MINID 3"), identity, field, value),
        command("XADD", key, identity, field),
        command("XDEL", key, some(identity, 3)),
        command("XTRIM", key, either("MAXLEN 2|MINID 4|MAXLEN x")),
        command("XSETID", key, identity),
        command("XLEN", key),
        command(either("XRANGE|XREVRANGE"), key, either("- +|+ -|(2-1 +|x +"), either("|COUNT 2")),
        command("XREAD", either("|COUNT 1"), "STREAMS", key, identity),
        command("XREAD STREAMS", tagged, tagged, identity, either("0|$|x")),
        command("XREAD STREAMS", tagged, tagged, "0"),
        command("XGROUP CREATE", key, group, either("0|$|3-1"), either("|MKSTREAM|MKSTREAM ENTRIESREAD 1")),
        command("XGROUP DESTROY", key, group),
        command("XGROUP SETID", key, group, either("0|$")),
        command(either("XGROUP CREATECONSUMER|XGROUP DELCONSUMER"), key, group, consumer),
        command(
            "XREADGROUP GROUP", group, consumer, either("|COUNT 1|NOACK"), "STREAMS", key, either(">|0|$")
        ),
        command("XACK", key, group, some(identity, 3)),
        command("XPENDING", key, group),
        command("XCLAIM", key, group, consumer, "0", some(identity, 2), either("|JUSTID|FORCE|RETRYCOUNT 3")),
        command("XAUTOCLAIM", key, group, consumer, "0", identity, either("|JUSTID|COUNT 1|COUNT 0")),
        command(either("XINFO STREAM|XINFO GROUPS"), key),
    ]


def geo(key: st.SearchStrategy[bytes]) -> list[Strategy]:
    near = "200 km"
    told = either("|ASC WITHDIST|DESC WITHCOORD WITHHASH|COUNT 1 ASC")
    return [
        command("GEOADD", key, either("|NX|XX|CH"), place, field),
        command("GEOPOS", key, some(field, 2)),
        command("GEOHASH", key, some(field, 2)),
        command("GEODIST", key, field, field, either("|km|mi|league")),
        command("GEOSEARCH", key, "FROMLONLAT 15 37 BYRADIUS", near, told),
        command("GEOSEARCH", key, "FROMMEMBER", field, "BYBOX 400 400 km", told),
        command("GEOSEARCHSTORE", tagged, tagged, "FROMLONLAT 15 37 BYRADIUS", near, either("|STOREDIST")),
        command(either("GEORADIUS|GEORADIUS_RO"), key, "15 37", near, told),
        command(either("GEORADIUSBYMEMBER|GEORADIUSBYMEMBER_RO"), key, field, near, told),
        command("GEORADIUS", tagged, "15 37", near, either("STORE|STOREDIST"), tagged),
        command("GEORADIUSBYMEMBER", tagged, field, near, either("STORE|STOREDIST|WITHDIST STORE"), tagged),
    ]


def hyperloglogs(key: st.SearchStrategy[bytes]) -> list[Strategy]:
    return [
        command("PFADD", key, some(value, 3)),
        command("PFCOUNT", key),
        command("PFCOUNT", tagged, tagged),
        command("PFMERGE", tagged, some(tagged, 2)),
    ]


def scripts(key: st.SearchStrategy[bytes]) -> list[Strategy]:
    script = st.sampled_from(SCRIPTS)
    digest = script.map(lambda text: sha1(text).hexdigest().encode())
    return [
        command(either("EVAL|EVAL_RO"), script, "1", key, value),
        command("EVAL", script, two_keys, value),
        command("EVAL", script, "0", value),
        command(either("EVALSHA|EVALSHA_RO"), digest, "1", key, value),
        command("EVALSHA", st.just(b"0" * 40), "1", key),
        command("FCALL", either("put|look|none"), "1", key, value),
        command("FCALL put", two_keys, value),
        command("FCALL_RO", either("put|look|none"), either("0|1"), key),
    ]


def generic(key: st.SearchStrategy[bytes]) -> list[Strategy]:
    """Keys expire at a given time only: what they do after some time depends on when they were told."""
    condition = either("|NX|XX|GT|LT|NX XX")
    return [
        command("TYPE", key),
        command("OBJECT", either("ENCODING|FREQ|NOSUCH"), key),
        command("EXPIREAT", key, FAR, condition),
        command("PEXPIREAT", key, FAR + "000", condition),
        command(either("EXPIRE|PEXPIRE"), key, either("-1|x")),
        command(either("EXPIRETIME|PEXPIRETIME"), key),
        command("PERSIST", key),
        command("DUMP", key),
        command("RESTORE", key, either("0|-1"), st.just(DUMPED), either("|REPLACE|BOGUS")),
        command("RESTORE", key, FAR + "000", st.just(DUMPED), "ABSTTL", either("|REPLACE")),
        command("RESTORE", key, "0", value),
        command("RENAME", tagged, tagged),
        command("RENAMENX", tagged, tagged),
        command("COPY", tagged, tagged, either("|REPLACE")),
        command("SORT", key, either("|ALPHA|DESC|ALPHA LIMIT 0 2|BY nosort|BOGUS")),
        command("SORT_RO", key, either("|ALPHA|DESC")),
        command("SORT", tagged, either("|ALPHA"), "STORE", tagged),
    ]


def blocking(key: st.SearchStrategy[bytes]) -> list[Strategy]:
    """Rarely to be chosen where they wait: servers look at the clock ten times in a second."""
    return [
        command(either("BLPOP|BRPOP|BZPOPMIN|BZPOPMAX"), key, soon),
        command("BLPOP", tagged, tagged, either("0.005|x|-1")),
        command("BLMOVE", tagged, tagged, side, side, soon),
        command("BRPOPLPUSH", tagged, tagged, soon),
        command("BLMPOP", soon, two_keys, side),
        command("BZMPOP", soon, two_keys, least),
        command("XREAD BLOCK 5 STREAMS", key, identity),
        command("XREADGROUP GROUP g c BLOCK 5 STREAMS", key, ">"),
    ]


def split(key: st.SearchStrategy[bytes]) -> list[Strategy]:
    return [
        command(either("MGET|DEL|UNLINK|EXISTS|TOUCH"), some(key, 6)),
        command("MGET", some(key, 6)),
        command("MSET", some(st.tuples(key, value), 5)),
    ]


def wrong(key: st.SearchStrategy[bytes]) -> list[Strategy]:
    return [
        st.sampled_from(list(wrong_numbers_of_arguments())),
        command("GET", key, key),
        command("MSET", key),
        command("NOSUCH", value),
        command("OBJECT NOSUCH", key),
    ]


FAMILIES: Final[Sequence[Family]] = (
    *(strings, bitmaps, hashes, lists, sets, sorted_sets, streams, geo, hyperloglogs),
    *(scripts, generic, split, wrong),
)


def of_a_family(
    *keys: st.SearchStrategy[bytes], families: Sequence[Family] = FAMILIES
) -> st.SearchStrategy[list[Words]]:
    """Several commands of one family, so that they find what they are for, with one way to choose keys."""
    return st.one_of(
        [st.lists(st.one_of(family(key)), min_size=1, max_size=12) for family in families for key in keys]
    )


def _one(strategy: Strategy) -> st.SearchStrategy[list[Words]]:
    return st.tuples(strategy).map(list)  # a list of its own, or one_of would take every command for a choice


def _joined(parts: Iterable[Any]) -> list[Words]:
    return [words for part in parts for words in part]


one_tagged = st.just(TAGGED[0])
connection = st.one_of(
    command("PING", maybe(value)), command("ECHO", value), command("SELECT", either("0|x"))
)
watch = command("WATCH", some(tagged, 2))
before = of_a_family(one_tagged, tagged)
queued = of_a_family(one_tagged, tagged, families=(*FAMILIES, blocking))
transaction = st.tuples(
    st.one_of(st.just([]), _one(watch), st.tuples(_one(watch), before).map(_joined)),
    st.just([(b"MULTI",)]),
    st.lists(st.one_of(st.tuples(queued).map(_joined), _one(connection)), max_size=3).map(_joined),
    st.one_of(st.just([]), st.just([]), st.just([]), _one(watch), st.just([(b"MULTI",)])),
    st.sampled_from([[(b"EXEC",)], [(b"EXEC",)], [(b"DISCARD",)]]),
).map(_joined)
lasting = st.tuples(command("PERSIST", one_tagged), command(either("TTL|PTTL"), one_tagged)).map(list)
apart = st.one_of(
    watch,
    connection,
    command(either("EXEC|DISCARD|UNWATCH|CLIENT GETNAME")),
    command("CLIENT SETNAME", field),
    command("DEL", *map(st.just, KEYS + TAGGED)),
    st.integers(0, 9).flatmap(lambda chance: command("PING") if chance else st.one_of(blocking(one_tagged))),
)
sessions: Final[st.SearchStrategy[list[Words]]] = st.lists(
    st.one_of(
        st.tuples(of_a_family(st.just(KEYS[0]), one_tagged)).map(_joined),
        st.tuples(of_a_family(st.sampled_from(KEYS + TAGGED))).map(_joined),
        transaction,
        lasting,
        _one(apart),
    ),
    min_size=1,
    max_size=12,
).map(_joined)
"""What one client sends."""
