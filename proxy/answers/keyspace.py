"""Commands about the keys of all masters, or about their data as a whole; SCAN is in ``scan``."""

import random

from proxy.answers.registry import Client, Context, answers
from proxy.answers.servers import every_master, first, least, least_of_each, total
from proxy.fanout import Answer
from proxy.resp_values import NULLS, header


@answers("dbsize", 1)
def _dbsize(_client: Client, context: Context, args: list[bytes]) -> Answer:
    return every_master(context, args, total, readonly=True)


@answers("keys", 2)
def _keys(_client: Client, context: Context, args: list[bytes]) -> Answer:
    return every_master(context, args, _joined, readonly=True)


def _joined(replies: list[bytes]) -> bytes:
    """The arrays as one. There may be millions of keys: they are copied once, and none is looked at."""
    count = 0
    bodies = []
    for reply in replies:
        size, begin = header(reply)
        count += size
        bodies.append(memoryview(reply)[begin:])
    return b"".join([b"*%d\r\n" % count, *bodies])


@answers("flushall", -1)
@answers("flushdb", -1)
def _flush(_client: Client, context: Context, args: list[bytes]) -> Answer:
    return every_master(context, args, first)


@answers("randomkey", 1)
def _randomkey(_client: Client, context: Context, args: list[bytes]) -> Answer:
    return every_master(context, args, _one_of_them, readonly=True)


def _one_of_them(replies: list[bytes]) -> bytes:
    found = [reply for reply in replies if reply not in NULLS]
    return random.choice(found or replies)


@answers("wait", 3)
def _wait(_client: Client, context: Context, args: list[bytes]) -> Answer:
    return every_master(context, args, least, blocking=True)


@answers("waitaof", 4)
def _waitaof(_client: Client, context: Context, args: list[bytes]) -> Answer:
    return every_master(context, args, least_of_each, blocking=True)


@answers("lastsave", 1)
def _lastsave(_client: Client, context: Context, args: list[bytes]) -> Answer:
    return every_master(context, args, least, readonly=True)


@answers("memory|purge", 2)
def _memory_purge(_client: Client, context: Context, args: list[bytes]) -> Answer:
    return every_master(context, args, first, readonly=True)
