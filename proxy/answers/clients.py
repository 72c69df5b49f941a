"""CLIENT: what is known of this connection and of the others, and what is done to them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from proxy.answers.registry import (
    NOT_AN_INTEGER,
    REPLIES_OFF,
    REPLIES_ON,
    REPLIES_SKIP,
    SYNTAX_ERROR,
    Client,
    Context,
    Plane,
    SessionRow,
    answers,
    clip,
    help_of,
    integer_of,
    too_many_arguments,
    word,
)
from proxy.fanout import Answer
from proxy.reply import OK, RESP3, array, bulk, error, integer, mapping, null, verbatim
from proxy.users import Users

BAD_CLIENT_NAME: Final = error("Client names cannot contain spaces, newlines or special characters.")
NO_REPLY: Final = b""

_NORMAL, _PUBSUB, _NONE = "normal", "pubsub", "none"
_TYPES: Final = {
    b"normal": _NORMAL,
    b"pubsub": _PUBSUB,
    b"master": _NONE,
    b"primary": _NONE,
    b"replica": _NONE,
    b"slave": _NONE,
}


def printable(value: bytes) -> bool:
    """Whether CLIENT INFO can show it as one word."""
    return all(0x21 <= byte <= 0x7E for byte in value)


# --- this connection ---------------------------------------------------------------------------


@answers("client|id", 2)
def _client_id(client: Client, _context: Context, _args: list[bytes]) -> bytes:
    return integer(client.id)


@answers("client|getname", 2)
def _client_getname(client: Client, _context: Context, _args: list[bytes]) -> bytes:
    return bulk(client.name) if client.name else null(client.protocol)


@answers("client|setname", 3)
def _client_setname(client: Client, _context: Context, args: list[bytes]) -> bytes:
    if not printable(args[2]):
        return BAD_CLIENT_NAME
    client.name = args[2].decode()
    return OK


@answers("client|setinfo", 4)
def _client_setinfo(client: Client, _context: Context, args: list[bytes]) -> bytes:
    option, value = word(args[2]), args[3]
    if option not in (b"lib-name", b"lib-ver"):
        return error(b"Unrecognized option '%b'" % clip(args[2], len(args[2])))
    if not printable(value):
        return error(b"%b cannot contain spaces, newlines or special characters." % clip(args[2]))
    if option == b"lib-name":
        client.lib_name = value.decode()
    else:
        client.lib_ver = value.decode()
    return OK


@answers("client|reply", 3)
def _client_reply(client: Client, _context: Context, args: list[bytes]) -> bytes:
    match word(args[2]):
        case b"on":
            client.replies = REPLIES_ON
            return OK
        case b"off":
            client.replies = REPLIES_OFF
            return NO_REPLY
        case b"skip":
            if client.replies != REPLIES_OFF:
                client.replies = REPLIES_SKIP
            return NO_REPLY
    return SYNTAX_ERROR


@answers("client|no-evict", 3)
@answers("client|no-touch", 3)
def _client_switch(_client: Client, _context: Context, args: list[bytes]) -> bytes:
    return OK if word(args[2]) in (b"on", b"off") else SYNTAX_ERROR


@answers("client|getredir", 2)
def _client_getredir(_client: Client, _context: Context, _args: list[bytes]) -> bytes:
    return integer(-1)


@answers("client|trackinginfo", 2)
def _client_trackinginfo(client: Client, _context: Context, _args: list[bytes]) -> bytes:
    flags = b"%b1\r\n%b" % (b"~" if client.protocol == RESP3 else b"*", bulk("off"))
    return mapping(
        [(bulk("flags"), flags), (bulk("redirect"), integer(-1)), (bulk("prefixes"), array([]))],
        client.protocol,
    )


# --- CLIENT INFO and LIST ----------------------------------------------------------------------


@answers("client|info", 2)
def _client_info(client: Client, _context: Context, _args: list[bytes]) -> bytes:
    row = SessionRow(client, 0, 0, 0, 0, multi=-1, watching=False, blocked=False, command="client|info")
    return verbatim(session_line(row), client.protocol)


@answers("client|list", -2)
def _client_list(client: Client, context: Context, args: list[bytes]) -> Answer:
    options = args[2:]
    option = word(options[0]) if options else b""
    protocol = client.protocol  # it may be another one when the workers have answered
    wanted: Iterable[int] | None = None
    kind: str | None = None
    if option == b"type" and len(options) == 2:
        kind = _TYPES.get(word(options[1]))
        if kind is None:
            return _unknown_type(options[1])
    elif option == b"id" and len(options) > 1:
        ids = [integer_of(arg) for arg in options[1:]]
        wanted = [id_ for id_ in ids if id_ is not None]
        if len(wanted) < len(ids):
            return error("Invalid client ID")
    elif options:
        return SYNTAX_ERROR

    def ask(plane: Plane) -> dict[int, str]:
        rows = plane.sessions(context.cluster)
        return {row.client.id: session_line(row) for row in rows if kind in (None, _type_of(row.client))}

    def merge(results: list[dict[int, str]]) -> bytes:
        lines = {id_: line for result in results for id_, line in result.items()}
        shown = sorted(lines) if wanted is None else (id_ for id_ in wanted if id_ in lines)
        return verbatim("".join(lines[id_] for id_ in shown), protocol)

    return context.everywhere(ask, merge)


def session_line(row: SessionRow) -> str:
    """A session as CLIENT LIST tells it; what there is no figure for is 0."""
    client = row.client
    return (
        f"id={client.id} addr={client.address} laddr={client.listener} fd=-1 name={client.name} "
        f"age={_age(client)} idle={int(row.idle)} flags={_flags(row)} db=0 "
        f"sub={client.subscriptions} psub=0 ssub=0 multi={row.multi} watch={int(row.watching)} "
        f"qbuf={row.input} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 "
        f"obl={row.output} oll=0 omem={row.output} tot-mem={row.input + row.output} "
        f"events={'rw' if row.output else 'r'} cmd={row.command or 'NULL'} user={client.user} redir=-1 "
        f"resp={client.protocol} lib-name={client.lib_name} lib-ver={client.lib_ver}\n"
    )


def _age(client: Client) -> int:
    return int(time.monotonic() - client.created)


def _flags(row: SessionRow) -> str:
    flags = {
        "P": row.client.subscriptions > 0,
        "x": row.multi >= 0,
        "b": row.blocked,
        "c": row.client.closing,
        "U": "/" in row.client.listener,
    }
    return "".join(flag for flag, is_set in flags.items() if is_set) or "N"


def _type_of(client: Client) -> str:
    return _PUBSUB if client.subscriptions else _NORMAL


def _unknown_type(name: bytes) -> bytes:
    return error(b"Unknown client type '%b'" % clip(name, len(name)))


# --- CLIENT KILL -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Filter:
    """Whom CLIENT KILL means; None is anybody."""

    id: int | None = None
    type: str | None = None
    user: str | None = None
    address: bytes | None = None
    listener: bytes | None = None
    age: int = 0  # seconds, at least
    skip_me: bool = True

    def matches(self, client: Client) -> bool:
        return (
            self.id in (None, client.id)
            and self.type in (None, _type_of(client))
            and self.user in (None, client.user)
            and self.address in (None, client.address.encode())
            and self.listener in (None, client.listener.encode())
            and (not self.age or _age(client) >= self.age)
        )


@answers("client|kill", -3)
def _client_kill(client: Client, context: Context, args: list[bytes]) -> Answer:
    old_form = len(args) == 3
    if old_form:
        meant: _Filter | bytes = _Filter(address=clip(args[2], len(args[2])), skip_me=False)
    else:
        meant = _filter(context, args[2:])
    if isinstance(meant, bytes):
        return meant
    suicide = not meant.skip_me and meant.matches(client)

    def ask(plane: Plane) -> int:
        ids = [row.client.id for row in plane.sessions(context.cluster) if meant.matches(row.client)]
        return sum(plane.kill(id_) for id_ in ids if id_ != client.id)

    def merge(results: list[int]) -> bytes:
        killed = sum(results) + suicide
        if old_form:
            return OK if killed else error("No such client")
        return integer(killed)

    if suicide:
        client.closing = True  # after the reply
    return context.everywhere(ask, merge)


def _filter(context: Context, options: list[bytes]) -> _Filter | bytes:
    """What the options say, or the error."""
    meant = _Filter()
    if len(options) % 2:
        # One that is wrong before the lonely last one is told first.
        meant_or_error = _filter(context, options[:-1])
        return meant_or_error if isinstance(meant_or_error, bytes) else SYNTAX_ERROR
    for option, value in zip(options[::2], options[1::2], strict=True):
        number = integer_of(value)
        text = clip(value, len(value))
        match word(option):
            case b"id":
                if number is None or number < 1:
                    return error("client-id should be greater than 0")
                meant.id = number
            case b"maxage":
                if number is None:
                    return error("maxage is not an integer or out of range")
                if number < 1:
                    return error("maxage should be greater than 0")
                meant.age = number
            case b"type":
                meant.type = _TYPES.get(word(value))
                if meant.type is None:
                    return _unknown_type(value)
            case b"user":
                if value not in Users(context.config):
                    return error(b"No such user '%b'" % text)
                meant.user = value.decode()
            case b"addr":
                meant.address = text
            case b"laddr":
                meant.listener = text
            case b"skipme" if word(value) in (b"yes", b"no"):
                meant.skip_me = word(value) == b"yes"
            case _:
                return SYNTAX_ERROR
    return meant


# --- CLIENT PAUSE and UNBLOCK ------------------------------------------------------------------


@answers("client|pause", -3)
def _client_pause(_client: Client, context: Context, args: list[bytes]) -> Answer:
    if len(args) > 4:
        return too_many_arguments(args)
    mode = word(args[3]) if len(args) == 4 else b"all"
    if mode not in (b"write", b"all"):
        return error("CLIENT PAUSE mode must be WRITE or ALL")
    milliseconds = integer_of(args[2])
    if milliseconds is None:
        return error("timeout is not an integer or out of range")
    if milliseconds < 0:
        return error("timeout is negative")
    if not milliseconds:
        return OK
    seconds = min(milliseconds / 1000, LONGEST_PAUSE)
    return _all_ok(context, lambda plane: plane.pause(context.cluster, seconds, mode == b"write"))


LONGEST_PAUSE: Final = 1e9
"""Seconds: decades, that nanoseconds in 64 bits have room for."""


@answers("client|unpause", 2)
def _client_unpause(_client: Client, context: Context, _args: list[bytes]) -> Answer:
    return _all_ok(context, lambda plane: plane.pause(context.cluster, 0, False))


def _all_ok(context: Context, ask: Callable[[Plane], None]) -> Answer:
    return context.everywhere(ask, lambda _: OK)


@answers("client|unblock", -3)
def _client_unblock(_client: Client, context: Context, args: list[bytes]) -> Answer:
    if len(args) > 4:
        return too_many_arguments(args)
    reason = word(args[3]) if len(args) == 4 else b"timeout"
    if reason not in (b"timeout", b"error"):
        return error("CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
    id_ = integer_of(args[2])
    if id_ is None:
        return NOT_AN_INTEGER
    if id_ < 1:
        return integer(0)
    return context.everywhere(
        lambda plane: plane.unblock(id_, reason == b"error"), lambda results: integer(any(results))
    )


@answers("client|help", 2)
def _client_help(_client: Client, _context: Context, _args: list[bytes]) -> bytes:
    return help_of(
        "CLIENT",
        {
            "GETNAME": "What SETNAME has named this connection.",
            "GETREDIR": "-1: no connection tracks keys.",
            "ID": "The number of this connection.",
            "INFO": "This connection in the format of Redis.",
            "KILL <ip:port>": "Closes the connection from there.",
            "KILL <option> <value> [<option> <value> ...]": (
                "Closes connections that fit all of: ADDR and LADDR (<ip:port>), TYPE (NORMAL|PUBSUB), "
                "USER <name>, ID <id>, MAXAGE <seconds>; but this one only with SKIPME NO."
            ),
            "LIST [TYPE (NORMAL|PUBSUB) | ID <id> ...]": "Connections to this proxy.",
            "NO-EVICT (ON|OFF)": "Accepted, and changes nothing.",
            "NO-TOUCH (ON|OFF)": "Accepted, and changes nothing.",
            "PAUSE <milliseconds> [WRITE|ALL]": "Has commands of this proxy's connections wait.",
            "REPLY (ON|OFF|SKIP)": "Whether commands are answered.",
            "SETINFO (LIB-NAME|LIB-VER) <value>": "Tells which client library this is.",
            "SETNAME <name>": "Names this connection.",
            "TRACKINGINFO": "Off.",
            "UNBLOCK <id> [TIMEOUT|ERROR]": "Ends the wait of a blocked connection.",
            "UNPAUSE": "Ends a PAUSE.",
        },
    )
