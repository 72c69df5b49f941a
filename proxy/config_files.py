"""Reads the two configuration files: finds every key and its line, checks it, and says what is wrong.

The format is Overlord's, TOML; what the files may hold is declared in ``proxy.config``.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Any

import toml

from proxy.address import Address
from proxy.config import (
    KINDS,
    LISTEN,
    ClusterConfig,
    Config,
    ConfigError,
    Key,
    ProxyConfig,
    did_you_mean,
    keys,
    kind_of,
)

LONGEST_SHOWN = 200
"""Characters of a value or a reason that an error message repeats."""

# Keys that Overlord reads and we can't honour.
_REFUSED: Mapping[tuple[str, str], str] = {
    ("", "family"): "has no effect, here as in Overlord; remove it",
    ("", "host"): "has no effect, here as in Overlord; remove it",
    ("clusters", "node_pipe_count"): (
        "has no counterpart, as requests are not sent in batches; max_pipeline in [proxy] of the -conf file"
        " limits what a client has in flight"
    ),
}

# --- a file --------------------------------------------------------------------------------------

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_HEADER = re.compile(r"""\s*\[\[?\s*["']?([\w.-]+)["']?\s*\]\]?\s*(#.*)?""")
_ASSIGNMENT = re.compile(r"""\s*["']?([\w.-]+)["']?\s*=""")
_END = "[end-of-file]"
_MOST_LINES = 1000

# How the parser's complaints begin, and our words; its own may repeat a piece of the file, even a password.
_COMPLAINTS: Mapping[str, str] = {
    "Unbalanced quotes": "a string is not closed",
    "Unterminated string": "a string is not closed",
    "Key name found without value": "a key has no = after it",
    "Found empty keyname": "there is no key before =",
    "Empty value": "a key has no value",
    "Found tokens after a closed string": "something follows the end of a string; or a comma or ] is missing",
    "Found invalid character": "a key is made of letters, digits, _ and -, and = comes after it",
    "invalid literal for int": "a value is neither a number, nor true or false, nor a string in quotes",
    "could not convert string to float": "a value is not a number",
    "This float": "a value is neither a number, nor true or false, nor a string in quotes",
    "Invalid date or number": "a value is neither a number, nor true or false, nor a string in quotes",
    "Only all lowercase booleans": "true and false are written in lower case",
    "Weirdness with leading zeroes": "a number has leading zeros or stray underscores",
    "Not a homogeneous array": "an array holds values of different types",
    "Reserved escape sequence": "a string holds an unknown escape; write a backslash as \\\\",
    "Invalid escape sequence": "a string holds an unknown escape; write a backslash as \\\\",
    "Duplicate keys": "a key is given twice",
    "What? ": "a table is given twice",
    "Key group not on a line by itself": "a table's header is not closed, or is not alone in its line",
    "Invalid group name": "a table's name is made of letters, digits, _ and -",
}


class _File:
    """One file, parsed, and where its keys stand in it."""

    def __init__(self, path: Path) -> None:
        self.name = shown(path)
        self.lines: list[str] = []
        self._where: dict[tuple[str, int, str], int] = {}
        text = self._text(path)
        self.lines = text.split("\n")
        self.tables = self._parse(text)
        self._scan()

    def error(self, problem: str, line: int | None = None) -> ConfigError:
        return ConfigError(f"{self.name}{f':{line}' if line else ''}: {_clip(problem, 3 * LONGEST_SHOWN)}")

    def _text(self, path: Path) -> str:
        try:
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            raise self.error(f"can't be read: {getattr(error, 'strerror', None) or error}") from None
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.error("is not UTF-8 text", data.count(b"\n", 0, error.start) + 1) from None

    def _parse(self, text: str) -> dict[str, Any]:
        try:
            return _tables(text)
        except toml.TomlDecodeError as error:
            reason = next((ours for theirs, ours in _COMPLAINTS.items() if error.msg.startswith(theirs)), "")
            problem = f"is not TOML: {reason}" if reason else "is not TOML"
            cut_off = error.lineno > len(self.lines)
            raise self.error(problem, self._culprit() if cut_off else error.lineno) from None
        except EOFError as error:
            raise self.error(f"is not TOML: {error}", self._culprit()) from None
        except Exception:  # it has no list of what it raises
            raise self.error("is not TOML", self._culprit()) from None

    def _culprit(self) -> int | None:
        """The line of the first statement that the parser can't take, for errors that don't tell."""
        for good in reversed(range(len(self.lines) if len(self.lines) <= _MOST_LINES else 0)):
            try:
                _tables("\n".join(self.lines[:good]))
            except Exception:
                continue
            return good + 1
        return None

    def _scan(self) -> None:
        """Finds the lines of tables and keys, which the parser does not tell."""
        table, seen = "", Counter[str]()
        for number, line in enumerate(self.lines, 1):
            if header := _HEADER.fullmatch(line):
                table = header[1]
                seen[table] += 1
                self._where[table, seen[table], ""] = number
            elif assignment := _ASSIGNMENT.match(line):
                prefix, _, key = assignment[1].rpartition(".")
                self._where.setdefault((prefix or table, max(seen[prefix or table], 1), key), number)

    def line(self, table: str, index: int, key: str, text: str = "") -> int | None:
        """The line of a key, or of a ``text`` in its value; else that of the table.

        At the top of the file the key may be a table's name.
        """
        places = ((table, index, key), (table, index, ""), ("", 1, table), (key, 1, ""))
        line = next((self._where[place] for place in places if place in self._where), None)
        if not (line and text):
            return line
        following = range(line, len(self.lines) + 1)
        return next((number for number in following if text in self.lines[number - 1]), line)


def _tables(text: str) -> dict[str, Any]:
    # The parser takes a string or an array that the end of the text cuts off, and loses a part of it.
    # A table after the end shows whether it was still inside one.
    tables: dict[str, Any] = toml.loads(f"{text}\n{_END}\n")
    if tables.pop(_END.strip("[]"), None) != {}:
        raise EOFError("a string or an array is not closed")
    return tables


@dataclass(frozen=True, slots=True)
class _Table:
    """One table of a file: what it holds, and where."""

    file: _File
    name: str
    values: Mapping[str, Any]
    index: int = 1
    """1 for the first of its name."""

    def error(self, key: str, problem: str, shown: str = "", *, item: str = "") -> ConfigError:
        """``shown``: the value as the message shows it; ``item``: the element of an array it is about."""
        label = {"": "", "clusters": "[[clusters]] "}.get(self.name, f"[{self.name}] ")
        what = f"{label}{key}".rstrip() + (f" = {shown}" if shown else "")
        line = self.file.line(self.name, self.index, key, item)
        return self.file.error(f"{what}: {problem}" if what else problem, line)

    def read(self, config: type[ProxyConfig | ClusterConfig]) -> dict[str, Any]:
        """The values of those of ``config``'s fields that stand in this table."""
        declared = {name: key for table, name, key in keys(config) if table == self.name}
        names = {written: name for name, key in declared.items() for written in (name, key.alias) if written}
        found: dict[str, Any] = {}
        for written, value in self.values.items():
            if written not in names:
                self.refuse(written, value, names if self.name else [*names, config.TABLE])
                continue
            key = declared[names[written]]
            read = self._items(written, key, value) if key.many else self._value(written, key, value)
            if found.setdefault(names[written], read) != read:
                other = key.alias if written == names[written] else names[written]
                raise self.error(
                    written, f"differs from {other}, which means the same; give one", _show(value)
                )
        for name, key in declared.items():
            if key.default is MISSING and name not in found:
                raise self.error("", f"{name} is missing; must be given")
        return found

    def _value(self, name: str, key: Key, value: object) -> Any:
        try:
            return key.read(value)
        except ValueError as error:
            raise self.error(name, str(error), "(hidden)" if key.secret else _show(value)) from None

    def _items(self, name: str, key: Key, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            shown = "(hidden)" if key.secret else _show(value)
            raise self.error(name, f"is {kind_of(value)}; must be {KINDS[list]}", shown)
        if not value and key.default is MISSING:
            raise self.error(name, "is empty; must hold at least one", "[]")
        read = []
        for item in value:
            try:
                read.append(key.read(item))
            except ValueError as error:
                shown = "(hidden)" if key.secret else _show(item)
                raise self.error(name, str(error), shown, item=str(item)) from None
        return tuple(dict.fromkeys(read))

    def refuse(self, name: str, value: object, names: Iterable[str]) -> None:
        """Raises for a key that nothing reads, unless it is an empty one of Overlord's."""
        if reason := _REFUSED.get((self.name, name)):
            if value == "":
                return
            raise self.error(name, reason, _show(value))
        if not _BARE.fullmatch(name):  # The parser went astray: what it took for a key may hold a password.
            raise self.error("", f"is not TOML: {_COMPLAINTS['Found invalid character']}")
        homes = [
            _HOMES[table] for config in _CONFIGS for table, known, _ in keys(config) if name in (known, table)
        ]
        if homes:
            raise self.error(name, f"is not known here; belongs in {' or '.join(dict.fromkeys(homes))}")
        raise self.error(name, f"is not known{did_you_mean(name, names)}")

    def compare(self, config: ProxyConfig | ClusterConfig) -> None:
        """Raises for a value that is larger than that of the key it must not exceed."""
        for table, name, key in keys(type(config)):
            if table == self.name and key.at_most:
                value, limit = getattr(config, name), getattr(config, key.at_most)
                if value > limit:
                    given = name if name in self.values else key.at_most
                    problem = f"{name} is {value} and {key.at_most} {limit} {key.unit}; must be at most that"
                    raise self.error(given, problem, _show(self.values.get(given)))


_CONFIGS = (ProxyConfig, ClusterConfig)
_HOMES: Mapping[str, str] = {
    "": "the top of the -conf file",
    "proxy": "[proxy] in the -conf file",
    "clusters": "[[clusters]] in the -cluster file",
}


def shown(path: Path | str) -> str:
    """A file's name as messages write it: on one line, whatever it is made of."""
    name = str(path)
    return _clip(name if name.isprintable() else ascii(name))


def _show(value: object) -> str:
    """A value as an error repeats it; of arrays, tables and dates only what they are."""
    if isinstance(value, str):
        return repr(_clip(value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if abs(value) < 2**64 else _clip(hex(value))
    return str(value) if isinstance(value, float) else f"({kind_of(value)})"


def _clip(text: str, longest: int = LONGEST_SHOWN) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."


# --- both files ----------------------------------------------------------------------------------


def load(
    cluster: Path | str,
    conf: Path | str | None = None,
    *,
    proxy_flags: Mapping[str, Any] | None = None,
    cluster_flags: Mapping[str, Any] | None = None,
) -> Config:
    """Reads both files; raises ConfigError.

    Without ``conf`` the process has Overlord's built-in settings: metrics are on, all else is off.
    The flags are fields of ProxyConfig, and of every ClusterConfig, that override the files.
    """
    proxy, top = _load_proxy(_File(Path(conf))) if conf else (ProxyConfig(use_metrics=True), None)
    proxy = replace(proxy, **(proxy_flags or {}))
    if top and proxy.stat and proxy.pprof and proxy.stat != proxy.pprof and proxy.stat.overlaps(proxy.pprof):
        problem = f"can't be had beside stat, {proxy.stat}; must be the same, or have another port or host"
        raise top.error("pprof", problem, _show(str(proxy.pprof)))
    loaded = _load_clusters(_File(Path(cluster)))
    clusters = [(table, replace(config, **(cluster_flags or {}))) for table, config in loaded]
    _check_names(clusters)
    _check_addresses(proxy, clusters)
    return Config(proxy, tuple(config for _, config in clusters))


def _load_proxy(file: _File) -> tuple[ProxyConfig, _Table]:
    """What the file says, and the table at its top."""
    values = dict(file.tables)
    proxy = values.pop("proxy", {})
    top, table = _Table(file, "", values), _Table(file, "proxy", proxy)
    if not isinstance(proxy, dict):
        raise table.error("", f"is {kind_of(proxy)}; must be a table")
    config = ProxyConfig(**top.read(ProxyConfig), **table.read(ProxyConfig))
    table.compare(config)
    return config, top


def _load_clusters(file: _File) -> Iterator[tuple[_Table, ClusterConfig]]:
    top = _Table(file, "", {name: value for name, value in file.tables.items() if name != "clusters"})
    for name, value in top.values.items():
        top.refuse(name, value, ("clusters",))
    clusters = file.tables.get("clusters", [])
    if not (isinstance(clusters, list) and all(isinstance(cluster, dict) for cluster in clusters)):
        problem = f"clusters is {kind_of(clusters)}; must be one [[clusters]] table for each cluster"
        raise file.error(problem, file.line("clusters", 1, ""))
    if not clusters:
        raise file.error("has no [[clusters]] table; must have one for each cluster")
    for index, values in enumerate(clusters, 1):
        table = _Table(file, "clusters", values, index)
        yield table, _read_cluster(table)


def _read_cluster(table: _Table) -> ClusterConfig:
    config = ClusterConfig(**table.read(ClusterConfig))
    table.compare(config)
    if config.redis_user and not config.redis_auth:
        raise table.error(
            "redis_user", "redis_auth is missing; must be its password", _show(config.redis_user)
        )
    users = Counter(user.name for user in config.client_users)
    if twice := [name for name, count in users.items() if count > 1]:
        problem = f"user {_show(twice[0])} is given twice; names must be unique"
        raise table.error("client_users", problem, "(hidden)")
    listen = str(config.listen_addr)
    try:
        return replace(config, listen_addr=LISTEN[config.listen_proto](listen))
    except ValueError as error:
        raise table.error("listen_addr", str(error), _show(listen)) from None


def _check_names(clusters: Sequence[tuple[_Table, ClusterConfig]]) -> None:
    names = Counter[str]()
    for table, config in clusters:
        names[config.name] += 1
        if names[config.name] > 1:
            raise table.error("name", "is another cluster's name too; must be unique", _show(config.name))


def _check_addresses(proxy: ProxyConfig, clusters: Sequence[tuple[_Table, ClusterConfig]]) -> None:
    taken: list[tuple[str, Address | str]] = [
        (name, address) for name, address in (("stat", proxy.stat), ("pprof", proxy.pprof)) if address
    ]
    for table, config in clusters:
        for owner, address in taken:
            if _clash(config.listen_addr, address):
                problem = f"is taken by {owner}, which listens on {address}; must be another address"
                raise table.error("listen_addr", problem, _show(str(config.listen_addr)))
        taken.append((f"cluster {config.name!r}", config.listen_addr))


def _clash(one: Address | str, other: Address | str) -> bool:
    if isinstance(one, Address) and isinstance(other, Address):
        return one.overlaps(other)
    return one == other
