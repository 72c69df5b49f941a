"""The connection itself: PING, ECHO, QUIT, SELECT, TIME, AUTH, HELLO, RESET, ROLE, READONLY."""

import time
from typing import Final

from proxy.answers.clients import BAD_CLIENT_NAME, printable
from proxy.answers.registry import (
    NOT_AN_INTEGER,
    REPLIES_ON,
    SYNTAX_ERROR,
    Client,
    Context,
    answers,
    clip,
    integer_of,
    word,
    wrong_arity,
)
from proxy.answers.subscriptions import subscribed_ping
from proxy.commands import REDIS_VERSION
from proxy.reply import OK, RESP3, array, bulk, error, integer, mapping, simple
from proxy.users import DEFAULT, Users

WRONG_PASSWORD: Final = error("invalid username-password pair or user is disabled.", "WRONGPASS")
NO_PASSWORD_SET: Final = error(
    "AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)
NOT_AUTHENTICATED: Final = error(
    "HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> "
    "option can be used to authenticate the client and select the RESP protocol version at the same time",
    "NOAUTH",
)


@answers("ping", -1)
def _ping(client: Client, _context: Context, args: list[bytes]) -> bytes:
    if client.subscriptions and client.protocol != RESP3:
        return subscribed_ping(args)
    if len(args) > 2:
        return wrong_arity("ping")
    return bulk(args[1]) if len(args) == 2 else simple("PONG")


@answers("echo", 2)
def _echo(_client: Client, _context: Context, args: list[bytes]) -> bytes:
    return bulk(args[1])


@answers("quit", -1)
def _quit(client: Client, _context: Context, _args: list[bytes]) -> bytes:
    client.closing = True
    return OK


@answers("select", 2)
def _select(_client: Client, _context: Context, args: list[bytes]) -> bytes:
    index = integer_of(args[1])
    if index is None:
        return NOT_AN_INTEGER
    if not -1 << 31 <= index < 1 << 31:
        return error(f"value is out of range, value must between {-1 << 31} and {(1 << 31) - 1}")
    return error("DB index is out of range") if index else OK


@answers("time", 1)
def _time(_client: Client, _context: Context, _args: list[bytes]) -> bytes:
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return array([bulk(str(seconds)), bulk(str(microseconds))])


@answers("auth", -2)
def _auth(client: Client, context: Context, args: list[bytes]) -> bytes:
    if len(args) > 3:
        return SYNTAX_ERROR
    users = Users(context.config)
    if len(args) == 2 and not users.required:
        return NO_PASSWORD_SET
    user = args[1] if len(args) == 3 else DEFAULT.encode()
    if not users.authenticate(user, args[-1]):
        return WRONG_PASSWORD
    _log_in(client, user)
    return OK


def _log_in(client: Client, user: bytes) -> None:
    client.user = user.decode()
    client.authenticated = True


@answers("hello", -1)
def _hello(client: Client, context: Context, args: list[bytes]) -> bytes:
    """Nothing changes unless all of it is right."""
    protocol = client.protocol
    if len(args) > 1:
        version = integer_of(args[1])
        if version is None:
            return error("Protocol version is not an integer or out of range")
        if version not in (2, 3):
            return error("unsupported protocol version", "NOPROTO")
        protocol = version
    user = name = None
    password = b""
    options = args[2:]
    while options:
        option = word(options[0])
        if option == b"auth" and len(options) > 2:
            user, password = options[1:3]
            options = options[3:]
        elif option == b"setname" and len(options) > 1:
            name = options[1]
            if not printable(name):
                return BAD_CLIENT_NAME
            options = options[2:]
        else:
            return error(b"Syntax error in HELLO option '%b'" % clip(options[0], len(options[0])))
    if user is not None:
        if not Users(context.config).authenticate(user, password):
            return WRONG_PASSWORD
        _log_in(client, user)
    if not client.authenticated:
        return NOT_AUTHENTICATED
    if name is not None:
        client.name = name.decode()
    client.protocol = protocol
    return mapping(
        [
            (bulk("server"), bulk("redis")),
            (bulk("version"), bulk(context.facts.redis_version or REDIS_VERSION)),
            (bulk("proto"), integer(protocol)),
            (bulk("id"), integer(client.id)),
            (bulk("mode"), bulk("cluster" if context.config.announce_addr else "standalone")),
            (bulk("role"), bulk("master")),
            (bulk("modules"), array([])),
        ],
        protocol,
    )


@answers("reset", 1)
def _reset(client: Client, context: Context, _args: list[bytes]) -> bytes:
    """The data plane ends what it keeps itself: a transaction, watched keys."""
    context.hub.forget(client.id)
    client.protocol = 2
    client.name = ""
    client.replies = REPLIES_ON
    client.user = DEFAULT
    client.authenticated = not Users(context.config).required
    return simple("RESET")


@answers("role", 1)
def _role(_client: Client, _context: Context, _args: list[bytes]) -> bytes:
    return array([bulk("master"), integer(0), array([])])


@answers("readonly", 1)
@answers("readwrite", 1)
@answers("asking", 1)
def _accepted(_client: Client, _context: Context, _args: list[bytes]) -> bytes:
    """The proxy follows redirections itself, and ``read_from`` says where reads go."""
    return OK
