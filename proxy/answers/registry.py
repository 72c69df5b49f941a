"""What answers a command here: the registry of handlers, what they may ask, and what they may return."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from proxy.commands import TABLE, Command, Plan
from proxy.config import ClusterConfig, ProxyConfig
from proxy.fanout import Answer, Pending
from proxy.pubsub import Hub
from proxy.reply import array, error, simple
from proxy.topology import Topology

QUOTED: Final = 128  # bytes of a command name, and of arguments, that error texts repeat


REPLIES_ON, REPLIES_OFF, REPLIES_SKIP = range(3)
"""CLIENT REPLY: the last is for the next command only. Kept in step with model.pxd."""


@dataclass(slots=True)
class Client:
    """What is known of one client connection and changed by its commands."""

    id: int
    address: str  # of the client, as CLIENT INFO tells it
    listener: str  # the address or socket path it connected to
    protocol: int = 2  # RESP version, 2 or 3
    name: str = ""
    lib_name: str = ""
    lib_ver: str = ""
    closing: bool = False  # it is to be closed once it has its replies
    user: str = "default"
    authenticated: bool = True  # the data plane lets others do nothing but authenticate
    replies: int = REPLIES_ON
    subscriptions: int = 0  # channels, patterns and shard channels; the data plane heeds it with RESP2
    subscribed_bytes: int = 0  # what they take
    created: float = field(default_factory=time.monotonic)

    @property
    def kept(self) -> int:
        """Bytes that grow as the client likes; they count towards memory_limit."""
        return len(self.name) + len(self.lib_name) + len(self.lib_ver) + self.subscribed_bytes


@dataclass(frozen=True, slots=True)
class Facts:
    """What answers tell of the proxy and of the cluster behind it."""

    redis_version: str  # "": no server has told its version yet
    proxy_version: str
    started: float  # when the proxy started, by time.time()
    tcp_port: int  # 0: a Unix socket
    connected_clients: int
    max_clients: int  # 0: as many as there may be open files
    max_bulk_length: int  # bytes
    read_timeout: int = 0  # ms a client may be silent; 0: for ever
    accepted: int = 0  # connections since the start, those turned away too
    rejected: int = 0
    bytes_in: int = 0  # from clients, since the start
    bytes_out: int = 0  # to clients
    blocked_clients: int = 0


class SessionRow(NamedTuple):
    """What CLIENT LIST knows of a session beside its ``Client``. Times are in seconds."""

    client: Client
    idle: float
    queued: int  # requests whose replies are not out yet
    input: int  # bytes read and not yet looked at
    output: int  # reply bytes that the client has not taken yet
    multi: int  # commands queued in its transaction; -1 outside of one
    watching: bool
    blocked: bool
    command: str  # its last, as the command table calls it; "" before the first


class SlowRecord(NamedTuple):
    """A slow command as SLOWLOG GET tells it."""

    id: int
    when: float  # by time.time()
    duration: int  # µs
    args: list[bytes]  # shortened by ``slow_arguments``
    address: str  # the client's
    name: str  # the client's


class Plane(Protocol):
    """What answers may ask of the sessions of one worker, in that worker's thread."""

    def sessions(self, cluster: int) -> list[SessionRow]: ...

    def kill(self, session: int) -> bool:
        """Closes a session; whether there is one of that id."""

    def unblock(self, session: int, error: bool) -> bool:
        """Ends the wait of a blocked session, as at its timeout or with UNBLOCKED; whether it waited."""

    def pause(self, cluster: int, seconds: float, writes_only: bool) -> None:
        """Has requests (or writes) wait; 0 seconds ends that."""


class Context(Protocol):
    """What an answer may know and do: there is one for each worker and cluster."""

    @property
    def cluster(self) -> int:
        """The cluster's index in the configuration."""

    @property
    def config(self) -> ClusterConfig: ...

    @property
    def proxy_config(self) -> ProxyConfig: ...

    @property
    def facts(self) -> Facts: ...

    @property
    def topology(self) -> Topology | None:
        """What the worker routes by; None before the first has come."""

    @property
    def hub(self) -> Hub:
        """The subscriptions of this worker's sessions."""

    def refresh(self, reason: str) -> None:
        """Has the topology fetched anew, as soon as may be."""

    def everywhere(self, ask: Callable[[Plane], Any], merge: Callable[[list[Any]], bytes]) -> Pending:
        """Asks every worker in its own thread; the merged results, in any order, are the reply."""

    def slow_log(self) -> list[SlowRecord]:
        """Of all workers, oldest first."""

    def reset_slow_log(self) -> None: ...

    def latencies(self) -> dict[str, tuple[int, list[tuple[int, int]]]]:
        """By command: calls, and how many of them took at most so many µs, for each bound; of all workers."""


Handler = Callable[[Client, Context, list[bytes]], Answer]

HANDLERS: Final[dict[bytes, tuple[int, Handler]]] = {}  # by lower-case name: arity, handler


def answers(name: str, arity: int) -> Callable[[Handler], Handler]:
    """Registers a function as what answers a command; arity as Redis counts it."""

    def register(handler: Handler) -> Handler:
        HANDLERS[name.encode()] = arity, handler
        return handler

    return register


def answer(client: Client, context: Context, args: list[bytes]) -> Answer:
    """The reply, in the client's protocol, to a command whose plan is LOCAL; args[0] is its name.

    It may change the client: its protocol, names, user, replies; QUIT sets ``client.closing``.
    """
    name = args[0].lower()
    known = TABLE.lookup(name)
    if known is not None and known.container:
        if len(args) == 1:
            return wrong_arity(name)
        name += b"|" + args[1].lower()
        if name not in HANDLERS:
            return unknown_subcommand(args[0], args[1])
    elif b"|" in name or name not in HANDLERS:
        return unknown_command(args)
    arity, handler = HANDLERS[name]
    if len(args) != arity if arity >= 0 else len(args) < -arity:
        return wrong_arity(name)
    return handler(client, context, args)


# --- errors ------------------------------------------------------------------------------------

SYNTAX_ERROR: Final = error("syntax error")
NOT_AN_INTEGER: Final = error("value is not an integer or out of range")


def unknown_command(args: list[bytes]) -> bytes:
    """The error for a command that does not exist; args begin with its name.

    It needs no more than the first 44 arguments and 128 bytes of each.
    """
    quoted = b""
    for arg in args[1:]:
        if len(quoted) >= QUOTED:
            break
        quoted += b"'%b' " % clip(arg, QUOTED - len(quoted))
    return error(b"unknown command '%b', with args beginning with: %b" % (clip(args[0]), quoted))


def unknown_subcommand(container: bytes, sub: bytes) -> bytes:
    """The error for a subcommand that its command, a container, does not have; both as sent."""
    return error(b"unknown subcommand '%b'. Try %b HELP." % (clip(sub), container.upper()))


def too_many_arguments(args: list[bytes]) -> bytes:
    """The error of a subcommand that counts its arguments itself."""
    text = b"unknown subcommand or wrong number of arguments for '%b'. Try %b HELP."
    return error(text % (clip(args[1]), args[0].upper()))


def wrong_arity(name: str | bytes) -> bytes:
    """The error for too few or too many arguments; name is the command's in the table."""
    name = name if isinstance(name, str) else name.decode()
    return error(f"wrong number of arguments for '{name}' command")


def refused(command: Command, args: list[bytes]) -> bytes:
    """The error for a command whose plan is REFUSE: it begins as that for one that does not exist."""
    container, _, sub = command.name.partition("|")
    parent = TABLE.lookup(container) if sub else None
    if not command.name:
        return unknown_command(args)
    if parent is not None and parent.plan is not Plan.REFUSE and len(args) > 1:
        unknown = unknown_subcommand(args[0], args[1])
        return error(b"%b The proxy does not carry it out: %b" % (unknown[5:-2], command.reason.encode()))
    name, reason = clip(args[0]), command.reason.encode()
    return error(b"unknown command '%b': the proxy does not carry it out: %b" % (name, reason))


def clip(arg: bytes, size: int = QUOTED) -> bytes:
    """As C prints a string: up to a NUL, and no more than size bytes."""
    return arg[:size].partition(b"\0")[0]


def word(arg: bytes) -> bytes:
    """An option's name as Redis compares it."""
    return clip(arg, len(arg)).lower()


def integer_of(arg: bytes) -> int | None:
    """A number of 64 bits written the one way Redis takes: no sign but -, no zeros or spaces in front."""
    try:
        value = int(arg) if len(arg) <= 20 else None
    except ValueError:
        return None
    return value if value is not None and b"%d" % value == arg and -1 << 63 <= value < 1 << 63 else None


def name_of(arg: bytes) -> str:
    return arg.lower().decode("latin-1")


def help_of(container: str, subcommands: Mapping[str, str]) -> bytes:
    lines = [f"{container} <subcommand> [<arg> ...]. Subcommands are:"]
    for usage, purpose in {**subcommands, "HELP": "This list."}.items():
        lines += [usage, f"    {purpose}"]
    return array([simple(line) for line in lines])
