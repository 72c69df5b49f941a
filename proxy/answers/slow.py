"""SLOWLOG and LATENCY: what was slow through this proxy."""

from collections.abc import Iterable
from typing import Final

from proxy.answers.registry import (
    Client,
    Context,
    SlowRecord,
    answers,
    clip,
    help_of,
    integer_of,
    name_of,
    too_many_arguments,
)
from proxy.reply import OK, array, bulk, error, integer, mapping, verbatim

MOST_ARGUMENTS: Final = 32
"""Of one command in the log, as in Redis: the last of them tells how many more there were."""
LONGEST_ARGUMENT: Final = 128
DEFAULT_COUNT: Final = 10


def slow_arguments(request: bytes) -> list[bytes]:
    """The arguments of a request, of which only the first bytes may be there, shortened as in Redis's log.

    It is an array of bulk strings, or an inline command.
    """
    if not request.startswith(b"*"):
        return _shortened(request.split(b"\r\n")[0].split(), 0)
    header, _, rest = request.partition(b"\r\n")
    count = int(header[1:]) if header[1:].isdigit() else 0
    found: list[bytes] = []
    while rest.startswith(b"$") and len(found) < count:
        header, end, rest = rest.partition(b"\r\n")
        if not (end and header[1:].isdigit()):
            break
        size = int(header[1:])
        there = rest[: min(size, LONGEST_ARGUMENT)]
        found.append(there if len(there) == size else b"%b... (%d more bytes)" % (there, size - len(there)))
        rest = rest[size + 2 :]
    return _shortened(found, count - len(found))


def _shortened(args: list[bytes], missing: int) -> list[bytes]:
    if not missing and len(args) <= MOST_ARGUMENTS:
        return args
    kept = args[: MOST_ARGUMENTS - 1]
    return [*kept, b"... (%d more arguments)" % (len(args) + missing - len(kept))]


@answers("slowlog|get", -2)
def _slowlog_get(_client: Client, context: Context, args: list[bytes]) -> bytes:
    if len(args) > 3:
        return too_many_arguments(args)
    count = integer_of(args[2]) if len(args) == 3 else DEFAULT_COUNT
    if count is None or count < -1:
        return error("count should be greater than or equal to -1")
    newest = context.slow_log()[::-1]
    return array([_entry(record) for record in (newest if count == -1 else newest[:count])])


def _entry(record: SlowRecord) -> bytes:
    return array(
        [
            integer(record.id),
            integer(int(record.when)),
            integer(record.duration),
            array([bulk(arg) for arg in record.args]),
            bulk(record.address),
            bulk(record.name),
        ]
    )


@answers("slowlog|len", 2)
def _slowlog_len(_client: Client, context: Context, _args: list[bytes]) -> bytes:
    return integer(len(context.slow_log()))


@answers("slowlog|reset", 2)
def _slowlog_reset(_client: Client, context: Context, _args: list[bytes]) -> bytes:
    context.reset_slow_log()
    return OK


@answers("slowlog|help", 2)
def _slowlog_help(_client: Client, _context: Context, _args: list[bytes]) -> bytes:
    return help_of(
        "SLOWLOG",
        {
            "GET [<count>]": "The latest commands that were slow through this proxy, or all of them (-1).",
            "LEN": "How many of them are remembered.",
            "RESET": "Forgets them.",
        },
    )


# --- LATENCY -----------------------------------------------------------------------------------

NO_EVENTS: Final = (
    "The proxy keeps no latency events. LATENCY HISTOGRAM tells how long commands took through it, and "
    "SLOWLOG which of them were slow.\n"
)


@answers("latency|latest", 2)
@answers("latency|history", 3)
def _latency_events(_client: Client, _context: Context, _args: list[bytes]) -> bytes:
    return array([])


@answers("latency|reset", -2)
def _latency_reset(_client: Client, _context: Context, _args: list[bytes]) -> bytes:
    return integer(0)


@answers("latency|graph", 3)
def _latency_graph(_client: Client, _context: Context, args: list[bytes]) -> bytes:
    return error(b"No samples available for event '%b'" % clip(args[2], len(args[2])))


@answers("latency|doctor", 2)
def _latency_doctor(client: Client, _context: Context, _args: list[bytes]) -> bytes:
    return verbatim(NO_EVENTS, client.protocol)


@answers("latency|histogram", -2)
def _latency_histogram(client: Client, context: Context, args: list[bytes]) -> bytes:
    latencies = context.latencies()
    wanted = [name_of(arg) for arg in args[2:]]
    names = [
        name
        for name in (latencies if not wanted else dict.fromkeys(_matching(wanted, latencies)))
        if latencies[name][0]
    ]
    return mapping([(bulk(name), _histogram(client, *latencies[name])) for name in names], client.protocol)


def _matching(wanted: list[str], names: Iterable[str]) -> list[str]:
    """Those names, and all subcommands of those that are containers."""
    return [name for want in wanted for name in names if name == want or name.startswith(f"{want}|")]


def _histogram(client: Client, calls: int, bounds: list[tuple[int, int]]) -> bytes:
    """Bounds that no call lies below, or no more than below the one before, are left out as in Redis."""
    rising = [
        (integer(bound), integer(count))
        for (bound, count), before in zip(bounds, [0, *(count for _, count in bounds)], strict=False)
        if count > before
    ]
    return mapping(
        [(bulk("calls"), integer(calls)), (bulk("histogram_usec"), mapping(rising, client.protocol))],
        client.protocol,
    )


@answers("latency|help", 2)
def _latency_help(_client: Client, _context: Context, _args: list[bytes]) -> bytes:
    return help_of(
        "LATENCY",
        {
            "DOCTOR": "Says that there are no events.",
            "GRAPH <event>": "There are no samples.",
            "HISTOGRAM [<command> ...]": "How long commands took through this proxy, cumulated.",
            "HISTORY <event>": "Empty.",
            "LATEST": "Empty.",
            "RESET [<event> ...]": "0: there is nothing to reset.",
        },
    )
