"""The commands that the proxy answers itself, and the errors it answers others with.

Replies and error texts are byte for byte those of redis-server 7.0.15. They differ on purpose in:

- SELECT knows database 0 only: a cluster has no other.
- CLIENT SETINFO and CLIENT NO-TOUCH are answered as Redis 7.2 does, whose clients send them.
- CLIENT subcommands that concern other connections, their replies or tracking are unknown, and
  CLIENT HELP and CONFIG HELP list what there is.
- CLIENT INFO has lib-name and lib-ver at its end, as in 7.2, and no figures about memory and
  buffers (0) or the socket (fd=-1): the data plane keeps them to itself. CLIENT NO-EVICT and
  NO-TOUCH are accepted and change nothing.
- HELLO and INFO tell of the proxy: its run id, process, connections and memory, one standalone
  master without replicas. They have fewer fields; INFO has no Stats, Modules, Errorstats,
  Commandstats, Latencystats and Keyspace. ``proxy_version`` is ours.
- CONFIG GET knows only the parameters of ``Facts.config``, whose values are the proxy's; CONFIG SET
  calls all of them immutable; RESETSTAT and REWRITE are refused.
"""

import os
import resource
import secrets
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from proxy.commands import SERVER, TABLE, Command, Plan
from proxy.reply import OK, array, bulk, error, integer, mapping, null, simple, verbatim

REDIS_VERSION: Final = SERVER.rpartition(" ")[2]  # where no server has told its own

RUN_ID: Final = secrets.token_hex(20)

QUOTED: Final = 128  # bytes of a command name, and of arguments, that error texts repeat


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
    created: float = field(default_factory=time.monotonic)


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

    @property
    def config(self) -> dict[str, str]:
        """What CONFIG GET knows."""
        most = self.max_clients or resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return {
            "appendonly": "no",
            "cluster-enabled": "no",
            "databases": "1",
            "maxclients": str(most),
            "maxmemory": "0",
            "maxmemory-policy": "noeviction",
            "notify-keyspace-events": "",
            "port": str(self.tcp_port),
            "proto-max-bulk-len": str(self.max_bulk_length),
            "save": "",
            "timeout": str(-(-self.read_timeout // 1000)),
        }


Handler = Callable[[Client, Facts, list[bytes]], bytes]

HANDLERS: Final[dict[bytes, tuple[int, Handler]]] = {}  # by lower-case name: arity, handler
CONTAINERS: Final = (b"client", b"config")


def answers(name: str, arity: int) -> Callable[[Handler], Handler]:
    """Registers a function as what answers a command; arity as Redis counts it."""

    def register(handler: Handler) -> Handler:
        HANDLERS[name.encode()] = arity, handler
        return handler

    return register


def answer(client: Client, facts: Facts, args: list[bytes]) -> bytes:
    """The reply, in the client's protocol, to a command whose plan is LOCAL; args[0] is its name.

    HELLO changes ``client.protocol``, CLIENT its names, QUIT sets ``client.closing``.
    """
    name = args[0].lower()
    if name in CONTAINERS:
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
    return handler(client, facts, args)


# --- errors ------------------------------------------------------------------------------------

SYNTAX_ERROR: Final = error("syntax error")
NOT_AN_INTEGER: Final = error("value is not an integer or out of range")
WRONG_PASSWORD: Final = error("invalid username-password pair or user is disabled.", "WRONGPASS")
NO_PASSWORD_SET: Final = error(
    "AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)
BAD_CLIENT_NAME: Final = error("Client names cannot contain spaces, newlines or special characters.")


def unknown_command(args: list[bytes]) -> bytes:
    """The error for a command that does not exist; args begin with its name.

    It needs no more than the first 44 arguments and 128 bytes of each.
    """
    quoted = b""
    for arg in args[1:]:
        if len(quoted) >= QUOTED:
            break
        quoted += b"'%b' " % _clip(arg, QUOTED - len(quoted))
    return error(b"unknown command '%b', with args beginning with: %b" % (_clip(args[0]), quoted))


def unknown_subcommand(container: bytes, sub: bytes) -> bytes:
    """The error for a subcommand that its command, a container, does not have; both as sent."""
    return error(b"unknown subcommand '%b'. Try %b HELP." % (_clip(sub), container.upper()))


def wrong_arity(name: str | bytes) -> bytes:
    """The error for too few or too many arguments; name is the command's in the table."""
    name = name if isinstance(name, str) else name.decode()
    return error(f"wrong number of arguments for '{name}' command")


def refused(command: Command, args: list[bytes]) -> bytes:
    """The error for a command whose plan is REFUSE: it is one that we do not have."""
    container, _, sub = command.name.partition("|")
    parent = TABLE.lookup(container) if sub else None
    if parent is not None and parent.plan is not Plan.REFUSE and len(args) > 1:
        return unknown_subcommand(args[0], args[1])
    return unknown_command(args)


def _clip(arg: bytes, size: int = QUOTED) -> bytes:
    """As C prints a string: up to a NUL, and no more than size bytes."""
    return arg[:size].partition(b"\0")[0]


def _word(arg: bytes) -> bytes:
    """An option's name as Redis compares it."""
    return _clip(arg, len(arg)).lower()


def _integer(arg: bytes) -> int | None:
    """A number of 64 bits written the one way Redis takes: no sign but -, no zeros or spaces in front."""
    try:
        value = int(arg) if len(arg) <= 20 else None
    except ValueError:
        return None
    return value if value is not None and b"%d" % value == arg and -1 << 63 <= value < 1 << 63 else None


# --- the connection ----------------------------------------------------------------------------


@answers("ping", -1)
def _ping(_client: Client, _facts: Facts, args: list[bytes]) -> bytes:
    if len(args) > 2:
        return wrong_arity("ping")
    return bulk(args[1]) if len(args) == 2 else simple("PONG")


@answers("echo", 2)
def _echo(_client: Client, _facts: Facts, args: list[bytes]) -> bytes:
    return bulk(args[1])


@answers("quit", -1)
def _quit(client: Client, _facts: Facts, _args: list[bytes]) -> bytes:
    client.closing = True
    return OK


@answers("select", 2)
def _select(_client: Client, _facts: Facts, args: list[bytes]) -> bytes:
    index = _integer(args[1])
    if index is None:
        return NOT_AN_INTEGER
    if not -1 << 31 <= index < 1 << 31:
        return error(f"value is out of range, value must between {-1 << 31} and {(1 << 31) - 1}")
    return error("DB index is out of range") if index else OK


@answers("time", 1)
def _time(_client: Client, _facts: Facts, _args: list[bytes]) -> bytes:
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return array([bulk(str(seconds)), bulk(str(microseconds))])


@answers("auth", -2)
def _auth(_client: Client, _facts: Facts, args: list[bytes]) -> bytes:
    if len(args) > 3:
        return SYNTAX_ERROR
    if len(args) == 2:
        return NO_PASSWORD_SET
    return OK if _authenticates(args[1]) else WRONG_PASSWORD


def _authenticates(user: bytes) -> bool:
    """Whether the user exists. There is only Redis's default one, which takes any password."""
    return user == b"default"


@answers("hello", -1)
def _hello(client: Client, facts: Facts, args: list[bytes]) -> bytes:
    protocol = client.protocol
    if len(args) > 1:
        version = _integer(args[1])
        if version is None:
            return error("Protocol version is not an integer or out of range")
        if version not in (2, 3):
            return error("unsupported protocol version", "NOPROTO")
        protocol = version
    options = iter(args[2:])
    left = len(args) - 2
    for option in options:
        left -= 1
        if _word(option) == b"auth" and left >= 2:
            user, _password = next(options), next(options)
            left -= 2
            if not _authenticates(user):
                return WRONG_PASSWORD
        elif _word(option) == b"setname" and left >= 1:
            left -= 1
            if not _set_name(client, next(options)):
                return BAD_CLIENT_NAME
        else:
            return error(b"Syntax error in HELLO option '%b'" % _clip(option, len(option)))
    client.protocol = protocol
    return mapping(
        [
            (bulk("server"), bulk("redis")),
            (bulk("version"), bulk(facts.redis_version or REDIS_VERSION)),
            (bulk("proto"), integer(protocol)),
            (bulk("id"), integer(client.id)),
            (bulk("mode"), bulk("standalone")),
            (bulk("role"), bulk("master")),
            (bulk("modules"), array([])),
        ],
        protocol,
    )


# --- CLIENT ------------------------------------------------------------------------------------


def _printable(value: bytes) -> bool:
    """Whether CLIENT INFO can show it as one word."""
    return all(0x21 <= byte <= 0x7E for byte in value)


def _set_name(client: Client, name: bytes) -> bool:
    if not _printable(name):
        return False
    client.name = name.decode()
    return True


@answers("client|id", 2)
def _client_id(client: Client, _facts: Facts, _args: list[bytes]) -> bytes:
    return integer(client.id)


@answers("client|getname", 2)
def _client_getname(client: Client, _facts: Facts, _args: list[bytes]) -> bytes:
    return bulk(client.name) if client.name else null(client.protocol)


@answers("client|setname", 3)
def _client_setname(client: Client, _facts: Facts, args: list[bytes]) -> bytes:
    return OK if _set_name(client, args[2]) else BAD_CLIENT_NAME


@answers("client|setinfo", 4)
def _client_setinfo(client: Client, _facts: Facts, args: list[bytes]) -> bytes:
    option, value = _word(args[2]), args[3]
    if option not in (b"lib-name", b"lib-ver"):
        return error(b"Unrecognized option '%b'" % _clip(args[2], len(args[2])))
    if not _printable(value):
        return error(b"%b cannot contain spaces, newlines or special characters." % _clip(args[2]))
    if option == b"lib-name":
        client.lib_name = value.decode()
    else:
        client.lib_ver = value.decode()
    return OK


@answers("client|info", 2)
def _client_info(client: Client, _facts: Facts, _args: list[bytes]) -> bytes:
    age = int(time.monotonic() - client.created)
    return verbatim(
        f"id={client.id} addr={client.address} laddr={client.listener} fd=-1 name={client.name} "
        f"age={age} idle=0 flags={'U' if '/' in client.listener else 'N'} db=0 sub=0 psub=0 ssub=0 "
        "multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 "
        f"events=r cmd=client|info user=default redir=-1 resp={client.protocol} "
        f"lib-name={client.lib_name} lib-ver={client.lib_ver}\n",
        client.protocol,
    )


@answers("client|no-evict", 3)
@answers("client|no-touch", 3)
def _client_switch(_client: Client, _facts: Facts, args: list[bytes]) -> bytes:
    return OK if _word(args[2]) in (b"on", b"off") else SYNTAX_ERROR


@answers("client|help", 2)
def _client_help(_client: Client, _facts: Facts, _args: list[bytes]) -> bytes:
    return _help(
        "CLIENT",
        {
            "GETNAME": "What SETNAME has named this connection.",
            "ID": "The number of this connection.",
            "INFO": "This connection in the format of Redis.",
            "NO-EVICT (ON|OFF)": "Accepted, and changes nothing.",
            "NO-TOUCH (ON|OFF)": "Accepted, and changes nothing.",
            "SETINFO (LIB-NAME|LIB-VER) <value>": "Tells which client library this is.",
            "SETNAME <name>": "Names this connection.",
        },
    )


def _help(container: str, subcommands: Mapping[str, str]) -> bytes:
    lines = [f"{container} <subcommand> [<arg> ...]. Subcommands are:"]
    for usage, purpose in {**subcommands, "HELP": "This list."}.items():
        lines += [usage, f"    {purpose}"]
    return array([simple(line) for line in lines])


# --- CONFIG ------------------------------------------------------------------------------------


@answers("config|get", -3)
def _config_get(client: Client, facts: Facts, args: list[bytes]) -> bytes:
    config = facts.config
    found: dict[str, tuple[bytes, str]] = {}  # by name: the name as asked for, the value
    for arg in args[2:]:
        pattern = _clip(arg, len(arg))
        if any(special in pattern for special in (b"[", b"*", b"?")):
            for name, value in config.items():
                if matches(pattern, name.encode()):
                    found.setdefault(name, (name.encode(), value))
        elif (name := _name(arg)) in config:
            found.setdefault(name, (arg, config[name]))
    return mapping([(bulk(asked), bulk(value)) for asked, value in found.values()], client.protocol)


def matches(pattern: bytes, text: bytes) -> bool:
    """Whether the text, in lower case, is what Redis's glob pattern describes, in any case.

    The time it takes grows with the product of their lengths and no faster.
    """
    tokens = list(_tokens(pattern))
    at = position = 0
    star, retry = -1, 0  # the last star passed, and where its match is to end
    while position < len(text):
        token = tokens[at] if at < len(tokens) else frozenset[int]()
        if token is None:
            star, retry = at, position
            at += 1
        elif text[position] in token:
            at += 1
            position += 1
        elif star >= 0:
            retry += 1
            at, position = star + 1, retry
        else:
            return False
    return all(token is None for token in tokens[at:])


_ANY_BYTE: Final = frozenset(range(256))
_LOWER: Final = bytes(range(256)).lower()


def _tokens(pattern: bytes) -> Iterator[frozenset[int] | None]:
    """What each part of a glob pattern stands for: one of some bytes, or None for any number of any."""
    at, size = 0, len(pattern)
    while at < size:
        byte = pattern[at : at + 1]
        if byte == b"*":
            yield None
        elif byte == b"?":
            yield _ANY_BYTE
        elif byte == b"[":
            at, members = _bracket(pattern, at + 1)
            yield members
        else:
            if byte == b"\\" and at + 1 < size:
                at += 1
            yield frozenset((_LOWER[pattern[at]],))
        at += 1


def _bracket(pattern: bytes, at: int) -> tuple[int, frozenset[int]]:
    """The bytes a [class] stands for and where it ends; one that is not closed ends the pattern."""
    negated = pattern[at : at + 1] == b"^"
    at += negated
    members: set[int] = set()
    while at < len(pattern) and pattern[at : at + 1] != b"]":
        if pattern[at : at + 1] == b"\\" and at + 1 < len(pattern):
            at += 1
            members.add(_LOWER[pattern[at]])
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            low, high = sorted((pattern[at], pattern[at + 2]))  # before their case goes, as Redis does
            members.update(range(_LOWER[low], _LOWER[high] + 1))
            at += 2
        else:
            members.add(_LOWER[pattern[at]])
        at += 1
    return at, _ANY_BYTE - members if negated else frozenset(members)


@answers("config|set", -4)
def _config_set(_client: Client, facts: Facts, args: list[bytes]) -> bytes:
    if len(args) % 2:
        return SYNTAX_ERROR
    name = _clip(args[2], len(args[2]))
    if _name(args[2]) not in facts.config:
        return error(b"Unknown option or number of arguments for CONFIG SET - '%b'" % name)
    return error(b"CONFIG SET failed (possibly related to argument '%b') - can't set immutable config" % name)


@answers("config|resetstat", 2)
@answers("config|rewrite", 2)
def _config_refused(_client: Client, _facts: Facts, args: list[bytes]) -> bytes:
    return error(b"CONFIG %b is not supported by the proxy" % args[1].upper())


def _name(arg: bytes) -> str:
    return arg.lower().decode("latin-1")


@answers("config|help", 2)
def _config_help(_client: Client, _facts: Facts, _args: list[bytes]) -> bytes:
    return _help("CONFIG", {"GET <pattern>": "Parameters whose names match, and their values."})


# --- INFO --------------------------------------------------------------------------------------


@answers("info", -1)
def _info(client: Client, facts: Facts, args: list[bytes]) -> bytes:
    wanted = {_name(arg) for arg in args[1:]} or {"default"}
    everything = not wanted.isdisjoint(("default", "all", "everything"))
    text = "\r\n".join(
        f"# {title}\r\n" + "".join(f"{name}:{value}\r\n" for name, value in section(facts).items())
        for title, section in SECTIONS.items()
        if everything or title.lower() in wanted
    )
    return verbatim(text, client.protocol)


def _info_server(facts: Facts) -> dict[str, object]:
    uptime = max(int(time.time() - facts.started), 0)
    system = os.uname()
    return {
        "redis_version": facts.redis_version or REDIS_VERSION,
        "proxy_version": facts.proxy_version,
        "redis_mode": "standalone",
        "os": f"{system.sysname} {system.release} {system.machine}",
        "arch_bits": struct.calcsize("P") * 8,
        "multiplexing_api": "epoll",
        "process_id": os.getpid(),
        "run_id": RUN_ID,
        "tcp_port": facts.tcp_port,
        "server_time_usec": time.time_ns() // 1000,
        "uptime_in_seconds": uptime,
        "uptime_in_days": uptime // 86400,
        "executable": sys.executable,
    }


def _info_clients(facts: Facts) -> dict[str, object]:
    return {
        "connected_clients": facts.connected_clients,
        "maxclients": facts.config["maxclients"],
        "blocked_clients": 0,
    }


def _info_memory(facts: Facts) -> dict[str, object]:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return {
        "used_memory": resident,
        "used_memory_rss": resident,
        "maxmemory": facts.config["maxmemory"],
        "maxmemory_policy": facts.config["maxmemory-policy"],
    }


def _info_persistence(_facts: Facts) -> dict[str, object]:
    return {"loading": 0, "async_loading": 0, "rdb_bgsave_in_progress": 0, "aof_enabled": 0}


def _info_replication(_facts: Facts) -> dict[str, object]:
    return {"role": "master", "connected_slaves": 0}


def _info_cpu(_facts: Facts) -> dict[str, object]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"used_cpu_sys": f"{used.ru_stime:.6f}", "used_cpu_user": f"{used.ru_utime:.6f}"}


def _info_cluster(_facts: Facts) -> dict[str, object]:
    return {"cluster_enabled": 0}


SECTIONS: Final[Mapping[str, Callable[[Facts], dict[str, object]]]] = {
    "Server": _info_server,
    "Clients": _info_clients,
    "Memory": _info_memory,
    "Persistence": _info_persistence,
    "Replication": _info_replication,
    "CPU": _info_cpu,
    "Cluster": _info_cluster,
}
