"""What the two configuration files may hold; ``proxy.config_files`` reads them.

``conf_proxy.toml`` is about the process (``ProxyConfig``), ``conf_cluster.toml`` holds one ``[[clusters]]``
table for each cluster (``ClusterConfig``). The fields of these two classes are the only list of keys:
each carries a ``Key`` that says how it is written, checked and documented.
"""

import dataclasses
import difflib
import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from functools import partial
from typing import Any, ClassVar

from proxy.address import Address
from proxy.commands import TABLE

LARGEST = 2**31 - 1
LARGEST_SIZE = 2**40


class ConfigError(Exception):
    """A configuration file that can't be used. ``str()`` is one line: where, which key, what is wrong."""


# --- what a key is -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """How one key is written, checked and documented."""

    doc: str
    kind: type
    """bool, int or str: the TOML type of the value, or of every element when ``many``."""
    many: bool = False
    default: Any = MISSING
    """The value when the file gives none; MISSING when it must."""
    top: bool = False
    """Whether it stands at the top of the file, not in a table."""
    unit: str = ""
    minimum: int = 0
    maximum: int = LARGEST
    choices: tuple[str, ...] = ()
    otherwise: str = ""
    """What to say of a value that is not one of ``choices``."""
    parse: Callable[[str], Any] = str
    """Turns a string into the value; raises ValueError."""
    alias: str = ""
    """Another name of the same key."""
    at_most: str = ""
    """The key of the same table whose value this one's must not exceed."""
    secret: bool = False
    """Never shown, logged or repeated in an error."""
    restart: bool = False
    """Whether a changed value needs a restart; a reload applies all others."""

    @property
    def note(self) -> str:
        """The unit, the default and how it is changed, as a reader of the file wants to know them."""
        default = "must be given"
        if self.default is not MISSING:
            default = f"default {json.dumps('' if self.default is None else self.default)}"
        notes = [self.unit, default, "changed by a restart only" if self.restart else ""]
        return "; ".join(note for note in notes if note)

    def read(self, value: object) -> Any:
        """The field's value for one in the file; the ValueError says what is wrong, never the value.

        An empty string is no value, as in Overlord.
        """
        if type(value) is not self.kind:
            unit = f" ({self.unit})" if self.unit else ""
            raise ValueError(f"is {kind_of(value)}; must be {KINDS[self.kind]}{unit}")
        if isinstance(value, str):
            return self._read_text(value)
        if isinstance(value, int) and self.kind is int and not self.minimum <= value <= self.maximum:
            limits = f"{self.minimum} to {self.maximum} {self.unit}".rstrip()
            raise ValueError(f"is out of range; must be {limits}")
        return value

    def _read_text(self, text: str) -> Any:
        if not text and not self.many:
            if self.default is MISSING:
                raise ValueError("is empty; must be given")
            return self.default
        if not (text.isprintable() or self.secret):
            raise ValueError("holds a character that can't be printed")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError("holds half of a surrogate pair; must be Unicode text")
        if self.choices and text not in self.choices:
            known = f"must be {' or '.join(map(repr, self.choices))}"
            raise ValueError(self.otherwise or f"is not known{did_you_mean(text, self.choices)}; {known}")
        return self.parse(text)


KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "an integer",
    str: "a string",
    list: "an array of strings",
}


def kind_of(value: object) -> str:
    """What a value of a TOML file is, in TOML's words."""
    kinds = {
        bool: "a boolean",
        int: "an integer",
        float: "a float",
        str: "a string",
        list: "an array",
        dict: "a table",
    }
    return next((name for kind, name in kinds.items() if isinstance(value, kind)), "a date or time")


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """The known word that is nearest, as errors ask for it; "" if none is near."""
    close = difflib.get_close_matches(text.lower(), known, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _key(kind: type, doc: str, default: Any = MISSING, **how: Any) -> Any:
    key = Key(doc=doc, kind=kind, default=default, **how)
    return dataclasses.field(default=default, repr=not key.secret, metadata={"key": key})


_text, _number, _switch = partial(_key, str), partial(_key, int), partial(_key, bool)
_milliseconds = partial(_key, int, unit="ms")
_bytes = partial(_key, int, unit="bytes", minimum=1)


def keys(config: type["ProxyConfig | ClusterConfig | Options"]) -> Iterator[tuple[str, str, Key]]:
    """Table ("" is the top of the file), name and declaration of every key, as they are declared."""
    for field in dataclasses.fields(config):
        key = field.metadata["key"]
        yield "" if key.top else config.TABLE, field.name, key


# --- how some strings are read -------------------------------------------------------------------


def _listen(text: str) -> Address:
    return Address.parse(text, default_host="0.0.0.0")


def _inside(text: str) -> Address:
    return Address.parse(text, default_host="127.0.0.1")


_SERVER = re.compile(r"(?P<address>(\[[^\]]*\]|[^:]*):[^:]*)(:(?P<weight>[^:]*))?")


def _server(text: str) -> Address:
    """``host:port``, or Overlord's ``host:port:weight`` or ``host:port:weight alias`` cut to that."""
    address, space, alias = text.partition(" ")
    if not (match := _SERVER.fullmatch(address)):
        return Address.parse(address)
    weight = match["weight"]
    if weight is not None and not (weight.isascii() and weight.isdigit()):
        raise ValueError(f"weight {weight!r} is not a number of at least 0")
    if space and (weight is None or not alias or " " in alias):
        raise ValueError("is not host:port, host:port:weight or host:port:weight alias")
    return Address.parse(match["address"])


@dataclass(frozen=True, slots=True)
class ClientUser:
    """A user that clients may authenticate as."""

    name: str
    digest: bytes = dataclasses.field(repr=False)
    """SHA-256 of the password."""
    password: str = dataclasses.field(default="", repr=False)
    """Empty when only its SHA-256 is known."""


def _client_user(text: str) -> ClientUser:
    """``name:password``, or ``name:#`` and the password's SHA-256 in hex, as in Redis's ACL files."""
    name, colon, password = text.partition(":")
    if not (name and colon and password):
        raise ValueError("is not name:password")
    if not (name.isprintable() and " " not in name):
        raise ValueError("the name holds a space or a character that can't be printed")
    if name == "default":
        raise ValueError("'default' is the user that client_password is for")
    if not password.startswith("#"):
        return ClientUser(name, hashlib.sha256(password.encode()).digest(), password)
    if not re.fullmatch(r"#[0-9a-fA-F]{64}", password):
        raise ValueError("the password begins with # and is not a SHA-256 of 64 hexadecimal digits")
    return ClientUser(name, bytes.fromhex(password[1:]))


def _denied_command(text: str) -> str:
    """A command, ``container|subcommand``, or an access control list's @category, in lower case.

    A name that is not known may be that of a module's command, unless it looks like one misspelt.
    """
    name = text.lower()
    if not name or " " in name:
        raise ValueError("is not a command's name, as in 'keys' or 'client|kill', or a @category")
    if name.startswith("@"):
        if name[1:] not in TABLE.categories:
            known = ", ".join(f"@{category}" for category in sorted(TABLE.categories))
            raise ValueError(f"is no category{did_you_mean(name[1:], TABLE.categories)}; must be of {known}")
    elif command := TABLE.by_name.get(name):
        if command.without_auth:
            raise ValueError("can't be denied: clients can't do without it")
    elif close := difflib.get_close_matches(name, TABLE.by_name, 1, 0.8):
        raise ValueError(f"is no command (did you mean {close[0]}?)")
    return name


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _server_zone(text: str) -> tuple[Network, str]:
    """``CIDR zone``: the servers with such addresses are in that availability zone."""
    network, _, zone = text.partition(" ")
    zone = zone.strip()
    if not zone or " " in zone:
        raise ValueError("is not a CIDR and a zone, as in '10.0.1.0/24 eu-west-1a'")
    try:
        return ipaddress.ip_network(network), zone
    except ValueError as error:
        raise ValueError(f"not a CIDR: {error}") from None


LONGEST_UNIX_PATH = 107
"""Bytes of a unix socket's path the kernel takes (unix(7): 108 with the final zero)."""


def _unix(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("is not an absolute path, as listen_proto 'unix' needs")
    if len(os.fsencode(text)) > LONGEST_UNIX_PATH:
        raise ValueError(f"is too long; a unix socket's path has at most {LONGEST_UNIX_PATH} bytes")
    return os.path.normpath(text)


LISTEN: Mapping[str, Callable[[str], Address | str]] = {"tcp": _listen, "unix": _unix}


# --- the keys ------------------------------------------------------------------------------------

HASH_METHODS = (
    "fnv1a_64",
    "fnv1a64",
    "fnv1a_32",
    "fnv1_64",
    "fnv1_32",
    "crc16",
    "crc32",
    "crc32a",
    "md5",
    "sha1",
    "one_on_time",
    "hsieh",
    "murmur",
)
"""Every name that Overlord or its example files know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """The process: ``conf_proxy.toml``. Times are in ms, sizes in bytes."""

    TABLE: ClassVar = "proxy"

    stat: Address | None = _text(  # noqa: RUF009
        "Address of the HTTP server for /metrics, /readyz, /healthz, /status and /slowlog; a port alone is on"
        " 127.0.0.1. Empty: none.",
        None,
        top=True,
        parse=_inside,
        restart=True,
    )
    pprof: Address | None = _text(  # noqa: RUF009
        "Address of the HTTP server for /debug/pprof; a port alone is on 127.0.0.1. May be the same as stat."
        " Empty: none.",
        None,
        top=True,
        parse=_inside,
        restart=True,
    )
    stdout: bool = _switch("Log to standard output.", False, top=True, restart=True)
    debug: bool = _switch(
        "Log to standard output, the same as stdout; log_lv says how much.", False, top=True, restart=True
    )
    log: str = _text(
        "File to log to; opened anew when logrotate has renamed it, and at SIGUSR1. Empty: none.",
        "",
        top=True,
        restart=True,
    )
    log_format: str = _text(
        "How each record is written, in a line of its own: logfmt, which is key=value, or json.",
        "logfmt",
        top=True,
        choices=("logfmt", "json"),
        restart=True,
    )
    log_lv: int = _number(
        "How much to log: 0 to 2 what happens, 3 and more also each detail.", 0, top=True, alias="log_vl"
    )

    read_timeout: int = _milliseconds(
        "A client that sends nothing for so long is disconnected. 0: no limit. (Overlord took seconds.)", 0
    )
    write_timeout: int = _milliseconds(
        "A client that takes none of its replies for so long is disconnected. 0: no limit.", 0
    )
    max_connections: int = _number(
        "Most clients at once, of all clusters together; more are refused. 0: no limit.", 0
    )
    use_metrics: bool = _switch("Serve /metrics.", False, restart=True)
    threads: int = _number(
        "Workers, one thread each. 0: as many as CPUs this process may use.", 0, maximum=1024, restart=True
    )
    drain_delay: int = _milliseconds(
        "How long clients are served as before after SIGTERM while /readyz says that they no longer should"
        " be: the time a load balancer takes to notice.",
        0,
    )
    shutdown_timeout: int = _milliseconds(
        "How long the end of the process waits for requests in flight.", 10_000
    )
    tcp_keepalive: int = _milliseconds(
        "A silent client connection is probed after so long. 0: never.", 60_000, maximum=32_767_000
    )
    max_pipeline: int = _number(
        "Most requests of one client in flight; past it we read no more from that client.",
        1024,
        unit="requests",
        minimum=1,
    )
    pipeline_bytes: int = _bytes("The same limit in bytes of requests.", 4 << 20, maximum=LARGEST_SIZE)
    output_pause: int = _bytes(
        "A client with more unread replies than this is read from no more until it takes them.",
        1 << 20,
        maximum=LARGEST_SIZE,
        at_most="output_limit",
    )
    output_limit: int = _bytes(
        "A client with more unread replies than this is disconnected.", 1 << 30, maximum=LARGEST_SIZE
    )
    memory_limit: int = _bytes(
        "Most memory for the buffers and requests of all connections. Past it, the clients that hold the most"
        " are disconnected. 0: half of what the machine, or this process's control group, has.",
        0,
        minimum=0,
        maximum=LARGEST_SIZE,
    )
    query_limit: int = _bytes("Largest request.", 1 << 30)
    max_bulk_length: int = _bytes("Largest argument of a request.", 512 << 20)
    max_arguments: int = _number("Most arguments of a request.", 1 << 20, unit="arguments", minimum=1)
    max_inline_length: int = _bytes("Longest request written as a plain line.", 64 << 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """One ``[[clusters]]`` table of ``conf_cluster.toml``. Times are in ms unless said otherwise."""

    TABLE: ClassVar = "clusters"

    name: str = _text("What metrics and logs call the cluster; unique.", restart=True)
    cache_type: str = _text(
        "What is behind the proxy.",
        "redis_cluster",
        choices=("redis_cluster",),
        otherwise="is not supported yet; only redis_cluster is",
        restart=True,
    )
    hash_method: str = _text(
        "Overlord's hash function. It has no effect on a Redis Cluster, where CRC16 gives a key's slot.",
        "fnv1a_64",
        choices=HASH_METHODS,
        restart=True,
    )
    hash_distribution: str = _text(
        "How keys are spread. It has no effect on a Redis Cluster, which spreads them by slot.",
        "ketama",
        choices=("ketama",),
        otherwise="is not known; must be 'ketama', which has no effect: a Redis Cluster places keys by slot",
        restart=True,
    )
    hash_tag: str = _text(
        "The part of a key that is hashed, if the key has such a part.",
        "{}",
        choices=("{}",),
        otherwise="can't be honoured: the hash tag of a Redis Cluster is always '{}'",
        restart=True,
    )
    listen_proto: str = _text(
        "What clients connect with: tcp or unix.", "tcp", choices=tuple(LISTEN), restart=True
    )
    listen_addr: Address | str = _text(  # noqa: RUF009
        "Where clients connect: host:port, [IPv6]:port, or a port alone for 0.0.0.0; or for unix a path.",
        restart=True,
    )
    redis_auth: str = _text("Password for the servers. Empty: no authentication.", "", secret=True)
    redis_user: str = _text("ACL user that the password belongs to. Empty: the servers' default user.", "")
    client_password: str = _text(
        "Password of the default user, which clients must give. Empty: none; or, if there are client_users,"
        " clients must authenticate as one of those.",
        "",
        secret=True,
    )
    client_users: tuple[ClientUser, ...] = _text(
        'More users that clients may authenticate as: "name:password", or "name:#" and the SHA-256 of the'
        " password in hex. All may do the same.",
        (),
        many=True,
        parse=_client_user,
        secret=True,
    )
    denied_commands: tuple[str, ...] = _text(
        'Commands that clients may not use: names, as in "keys" or "client|kill", and categories of access'
        ' control lists, as in "@scripting". What scripts do is the servers\' to deny.',
        ("flushall", "flushdb"),
        many=True,
        parse=_denied_command,
    )
    announce_addr: Address | None = _text(  # noqa: RUF009
        "host:port that CLUSTER commands announce as the owner of all slots: the load balancer's. INFO and"
        " HELLO tell of a cluster then. Empty: where the client has connected to, and a standalone server.",
        None,
        parse=Address.parse,
    )
    dial_timeout: int = _milliseconds("How long connecting to a server may take. 0: no limit of ours.", 0)
    read_timeout: int = _milliseconds("How long a server may take to reply. 0: no limit.", 0)
    write_timeout: int = _milliseconds(
        "How long a server may take nothing of what is written to it. 0: no limit.", 0
    )
    node_connections: int = _number(
        "Connections to each server, shared out among the workers, which have at least one each.",
        2,
        unit="connections",
        minimum=1,
        maximum=1024,
        restart=True,
    )
    pinned_connections: int = _number(
        "Most connections to each server that clients hold for themselves: for blocking commands, WATCH and"
        " WAIT. Shared out among the workers.",
        1000,
        unit="connections",
        minimum=1,
        restart=True,
    )
    read_from: str = _text(
        "Where commands that only read go. master: the master. prefer_replica: a replica, or the master if"
        " there is none. replica: a replica only. nearest: a server in the proxy's zone, or any if none is.",
        "master",
        choices=("master", "prefer_replica", "replica", "nearest"),
        restart=True,
    )
    zone: str = _text(
        "Availability zone of the proxy, for read_from nearest. Empty: what EC2's instance metadata tells.",
        "",
        restart=True,
    )
    server_zones: tuple[tuple[Network, str], ...] = _text(
        'Availability zones of servers by address, as in "10.0.1.0/24 eu-west-1a"; the first that fits'
        " counts. Needed only where servers do not tell theirs, as Valkey's do.",
        (),
        many=True,
        parse=_server_zone,
        restart=True,
    )
    ping_fail_limit: int = _number(
        "Pings in a row that must fail before ping_auto_eject acts. 0 and 1: the first.",
        3,
        unit="pings",
    )
    ping_auto_eject: bool = _switch(
        "Send nothing more to a server that fails its pings, until one succeeds.", False
    )
    slowlog_slower_than: int = _number(
        "Requests that take longer go into the slow log. 0: none.", 0, unit="µs"
    )
    servers: tuple[Address, ...] = _text(
        "Where the cluster is found: its configuration endpoint, or any of its nodes. Names are resolved anew"
        " each time. A weight and an alias after the port, as Overlord has them, are ignored.",
        many=True,
        parse=_server,
    )
    topology_interval: int = _milliseconds(
        "How often the cluster is asked for its slots while nothing seems to have changed.",
        10_000,
        minimum=1,
    )
    topology_floor: int = _milliseconds(
        "The least time between two such questions, however much seems to have changed.",
        100,
        at_most="topology_interval",
    )


@dataclass(frozen=True, slots=True)
class Config:
    """Both files, with the flags that override them."""

    proxy: ProxyConfig
    clusters: tuple[ClusterConfig, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What only flags say."""

    TABLE: ClassVar = "flags"

    slowlog: str = _text("File to which the slow log is written. Empty: none.", "")
    slower_max_bytes: int = _bytes(
        "Size at which that file is rotated. 0: never.", 500_000_000, minimum=0, maximum=LARGEST_SIZE
    )
    slower_backup_count: int = _number("Rotated files that are kept.", 7, unit="files", maximum=1000)
