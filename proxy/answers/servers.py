"""Commands that every master has to carry out: one request to each, and a rule how the replies make one."""

from collections.abc import Callable, Sequence
from typing import Final

from proxy.answers.registry import Context
from proxy.fanout import Answer, Fanout, Part, PartReply
from proxy.reply import array, bulk, error, integer
from proxy.resp_values import elements, is_error, number

UNREACHED: Final = error(
    "no server of this cluster could be reached yet; the proxy keeps trying", "CLUSTERDOWN"
)

Combine = Callable[[list[bytes]], bytes]
"""Makes one reply of the masters' replies, none of which is an error."""


def request(args: Sequence[bytes]) -> bytes:
    return array([bulk(arg) for arg in args])


def parts(context: Context, args: Sequence[bytes]) -> list[Part]:
    """The command for each master that owns slots, ordered as in the topology; none if there is none."""
    shards = context.topology.shards if context.topology else ()
    whole = request(args)
    return [Part(shard.ranges[0][0], whole) for shard in shards if shard.ranges]


def every_master(
    context: Context,
    args: Sequence[bytes],
    combine: Combine,
    *,
    readonly: bool = False,
    blocking: bool = False,
) -> Answer:
    """Has every master carry out the command; the first error of any of them is the reply."""

    def merge(replies: Sequence[PartReply]) -> bytes:
        return first_error(replies) or combine([reply for _, reply in replies])

    found = parts(context, args)
    return Fanout(found, merge, readonly, blocking) if found else UNREACHED


def any_master(context: Context, args: Sequence[bytes], *, readonly: bool = False) -> Answer:
    """Has one master carry it out: all would answer the same."""
    found = parts(context, args)[:1]
    return Fanout(found, lambda replies: replies[0].reply, readonly) if found else UNREACHED


def first_error(replies: Sequence[PartReply]) -> bytes | None:
    return next((reply for _, reply in replies if is_error(reply)), None)


# --- how replies are combined ------------------------------------------------------------------


def first(replies: list[bytes]) -> bytes:
    """All are the same (OK, for one), or any will do."""
    return replies[0]


def total(replies: list[bytes]) -> bytes:
    return integer(sum(map(number, replies)))


def least(replies: list[bytes]) -> bytes:
    return integer(min(map(number, replies)))


def least_of_each(replies: list[bytes]) -> bytes:
    """Arrays of numbers as one, place by place."""
    columns = zip(*map(elements, replies), strict=True)
    return array([least(list(column)) for column in columns])
