"""SUBSCRIBE and its kin, and PUBLISH: the hub of this worker keeps the subscriptions."""

from collections.abc import Sequence
from typing import Final

from proxy.answers.registry import Client, Context, answers, wrong_arity
from proxy.fanout import Answer, Fanout, Part, PartReply, Pending
from proxy.pubsub import Kind, home_slot
from proxy.reply import array, bulk, error, integer
from proxy.slots import slot_of

CROSS_SLOT: Final = error("Keys in request don't hash to the same slot", "CROSSSLOT")


@answers("subscribe", -2)
@answers("psubscribe", -2)
@answers("ssubscribe", -2)
def _subscribe(client: Client, context: Context, args: list[bytes]) -> Answer:
    kind = Kind(args[0].lower().decode())
    names = args[1:]
    if kind is Kind.SHARD and len({slot_of(name) for name in names}) > 1:
        return CROSS_SLOT
    return Pending(lambda complete: context.hub.subscribe(client, kind, names, complete))


@answers("unsubscribe", -1)
def _unsubscribe(client: Client, context: Context, args: list[bytes]) -> bytes:
    return context.hub.unsubscribe(client, Kind.CHANNEL, args[1:])


@answers("punsubscribe", -1)
def _punsubscribe(client: Client, context: Context, args: list[bytes]) -> bytes:
    return context.hub.unsubscribe(client, Kind.PATTERN, args[1:])


@answers("sunsubscribe", -1)
def _sunsubscribe(client: Client, context: Context, args: list[bytes]) -> bytes:
    return context.hub.unsubscribe(client, Kind.SHARD, args[1:])


@answers("publish", 3)
def _publish(_client: Client, context: Context, args: list[bytes]) -> Fanout:
    return _published(context, args, Kind.CHANNEL)


@answers("spublish", 3)
def _spublish(_client: Client, context: Context, args: list[bytes]) -> Fanout:
    return _published(context, args, Kind.SHARD)


def _published(context: Context, args: list[bytes], kind: Kind) -> Fanout:
    """The server where the channel is at home gets it, and its count of receivers is put right."""
    channel = args[1]
    tally = context.hub.tally

    def merge(replies: Sequence[PartReply]) -> bytes:
        server, reply = replies[0]
        if not tally or not reply.startswith(b":"):
            return reply
        return integer(tally.receivers(channel, server, int(reply[1:-2]), kind))

    return Fanout([Part(home_slot(kind, channel), array([bulk(arg) for arg in args]))], merge)


def subscribed_ping(args: list[bytes]) -> bytes:
    """What PING answers to a RESP2 client with subscriptions: in the shape of a message."""
    if len(args) > 2:
        return wrong_arity("ping")
    return array([bulk("pong"), bulk(args[1] if len(args) == 2 else b"")])
