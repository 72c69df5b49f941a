"""SCRIPT and FUNCTION, which every master has to know alike, and PUBSUB, which asks all of them."""

from collections.abc import Callable, Sequence

from proxy.answers.registry import Client, Context, answers
from proxy.answers.servers import UNREACHED, any_master, every_master, first, least_of_each, parts, total
from proxy.fanout import Answer, Fanout, PartReply
from proxy.pubsub import Kind
from proxy.reply import array, integer
from proxy.resp_values import NULLS, content, elements, header, is_error, number

# --- SCRIPT ------------------------------------------------------------------------------------


@answers("script|load", 3)
def _script_load(_client: Client, context: Context, args: list[bytes]) -> Answer:
    return every_master(context, args, first, readonly=True)  # loading it twice is loading it


@answers("script|exists", -3)
def _script_exists(_client: Client, context: Context, args: list[bytes]) -> Answer:
    """EVALSHA can be relied on only where every master has the script."""
    return every_master(context, args, least_of_each, readonly=True)


@answers("script|flush", -2)
def _script_flush(_client: Client, context: Context, args: list[bytes]) -> Answer:
    return every_master(context, args, first)


@answers("script|kill", 2)
@answers("function|kill", 2)
def _kill(_client: Client, context: Context, args: list[bytes]) -> Answer:
    """On connections of their own: on a shared one it would wait for the script that it is to end."""
    found = parts(context, args)
    return Fanout(found, _killed, blocking=True) if found else UNREACHED


def _killed(replies: Sequence[PartReply]) -> bytes:
    """OK if a script was killed anywhere, unless another goes on because it has written."""
    return min((reply for _, reply in replies), key=_weight)


def _weight(reply: bytes) -> int:
    if reply.startswith(b"-UNKILLABLE"):
        return 0
    if not is_error(reply):
        return 1
    return 3 if reply.startswith(b"-NOTBUSY") else 2


# --- FUNCTION ----------------------------------------------------------------------------------


@answers("function|load", -3)
@answers("function|restore", -3)
@answers("function|delete", 3)
@answers("function|flush", -2)
def _function_change(_client: Client, context: Context, args: list[bytes]) -> Answer:
    """A refusal of one master is the reply, though others may have obeyed."""
    return every_master(context, args, first)


@answers("function|list", -2)
def _function_list(_client: Client, context: Context, args: list[bytes]) -> Answer:
    return every_master(context, args, _libraries, readonly=True)


def _libraries(replies: list[bytes]) -> bytes:
    """Each library once, by its name; masters differ only after a change that failed at some of them."""
    found: dict[bytes, bytes] = {}
    for reply in replies:
        for library in elements(reply):
            found.setdefault(_field(library, b"library_name"), library)
    return array(list(found.values()))


def _field(reply: bytes, name: bytes) -> bytes:
    """The value of a map, whose keys are bulk strings. Raises KeyError when it has none of that name."""
    fields = elements(reply)
    return dict(zip(map(content, fields[::2]), fields[1::2], strict=True))[name]


@answers("function|stats", 2)
def _function_stats(_client: Client, context: Context, args: list[bytes]) -> Answer:
    """On connections of their own, as KILL, because it is asked while a script keeps others waiting."""
    return every_master(context, args, _running, blocking=True)


def _running(replies: list[bytes]) -> bytes:
    """The function that runs on whichever master; its engines are alike."""
    return next((reply for reply in replies if _field(reply, b"running_script") not in NULLS), replies[0])


@answers("function|dump", 2)
def _function_dump(_client: Client, context: Context, args: list[bytes]) -> Answer:
    return any_master(context, args, readonly=True)


# --- PUBSUB ------------------------------------------------------------------------------------


@answers("pubsub|channels", -2)
@answers("pubsub|shardchannels", -2)
def _pubsub_channels(_client: Client, context: Context, args: list[bytes]) -> Answer:
    return every_master(context, args, _union, readonly=True)


def _union(replies: list[bytes]) -> bytes:
    return array(sorted({name for reply in replies for name in elements(reply)}, key=content))


@answers("pubsub|numsub", -2)
def _pubsub_numsub(_client: Client, context: Context, args: list[bytes]) -> Answer:
    return every_master(context, args, _subscribers(context, Kind.CHANNEL), readonly=True)


@answers("pubsub|shardnumsub", -2)
def _pubsub_shardnumsub(_client: Client, context: Context, args: list[bytes]) -> Answer:
    return every_master(context, args, _subscribers(context, Kind.SHARD), readonly=True)


def _subscribers(context: Context, kind: Kind) -> Callable[[list[bytes]], bytes]:
    """Adds up the counts by channel, with this proxy's sessions in the place of its own connections."""
    servers = [str(shard.master) for shard in (context.topology.shards if context.topology else ())]
    tally = context.hub.tally

    def combine(replies: list[bytes]) -> bytes:
        _, begin = header(replies[0])
        columns = list(zip(*map(elements, replies), strict=True))
        counted = []
        for (name, *_), counts in zip(columns[::2], columns[1::2], strict=True):
            surplus = tally.surplus(kind, content(name), servers)
            counted += [name, integer(max(0, sum(map(number, counts)) + surplus))]
        return replies[0][:begin] + b"".join(counted)

    return combine


@answers("pubsub|numpat", 2)
def _pubsub_numpat(_client: Client, context: Context, args: list[bytes]) -> Answer:
    def combine(replies: list[bytes]) -> bytes:
        # Those that may match notifications are at every master.
        return integer(number(total(replies)) - context.hub.tally.repeated_patterns())

    return every_master(context, args, combine, readonly=True)
