"""The command line: Overlord's flags and a few of ours, written as Go writes them."""

import argparse
import difflib
import faulthandler
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from proxy import __version__, log
from proxy.config import ClusterConfig, Config, ConfigError, Key, Options, ProxyConfig, keys
from proxy.config_files import load, shown
from proxy.reload import compare

PROGRAM = "redis-proxy"
WRONG = 2
"""Exit status when the flags or the files can't be used."""

DESCRIPTION = """\
Gives plain Redis clients a Redis Cluster: listens where each [[clusters]] table of the -cluster file
says, and carries out on the cluster behind it what clients ask for.
"""

EPILOG = f"""\
Write -x VALUE or -x=VALUE, with one dash or two. A flag overrides the files; one of 0 or "" does not.

exit status: 0 ended as asked, or the files are good; 1 can't serve, or does not; 2 wrong flags or files

examples:
  {PROGRAM} -cluster conf_cluster.toml -conf conf_proxy.toml --check
  {PROGRAM} -cluster conf_cluster.toml -conf conf_proxy.toml
"""


class UsageError(Exception):
    """Flags that can't be used; ``str()`` is one line."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag; a switch if it has no ``metavar``, else it takes a value."""

    names: tuple[str, ...]
    doc: str
    metavar: str = ""
    overrides: tuple[type[ProxyConfig | ClusterConfig | Options], str] | None = None
    """The field that gets the value, by whose rules it is read."""

    @property
    def dest(self) -> str:
        """The name under which argparse keeps the value."""
        return self.names[-1].lstrip("-").replace("-", "_")

    @property
    def key(self) -> Key | None:
        """The declaration of the field that gets the value."""
        if self.overrides is None:
            return None
        config, field = self.overrides
        return next(key for _, name, key in keys(config) if name == field)

    @property
    def help(self) -> str:
        default = self.key.default if self.key and self.overrides and self.overrides[0] is Options else ""
        return f"{self.doc} (default {default})" if default else self.doc

    def value(self, text: str) -> Any:
        """The value for what was written; raises argparse's own error."""
        if self.key is None:
            return text
        try:
            return self.key.read(_whole(text) if self.key.kind is int else text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{shown(text)}: {error}") from None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("is not a whole number") from None


FLAGS: Mapping[str, tuple[Flag, ...]] = {
    "files": (
        Flag(("-cluster",), "TOML file of the clusters to serve; must be given", "FILE"),
        Flag(("-conf",), "TOML file of the process; none: metrics are on, all else is off", "FILE"),
    ),
    "instead of serving": (
        Flag(("-t", "--check"), "check both files and exit"),
        Flag(
            ("-against",),
            "with --check: also tell what changes from the files of the same names in DIR to these, and "
            "whether a reload (SIGHUP) applies it or a restart is needed",
            "DIR",
        ),
        Flag(
            ("-probe",),
            "connect to each cluster's listen_addr as a client does, read some keys, and exit: "
            "0 if the proxy that runs with these files serves, else 1",
        ),
        Flag(("-version",), "print the version and exit"),
        Flag(("-h", "--help"), "print this and exit"),
    ),
    "overriding the -conf file": (
        Flag(("-stat",), "HTTP server's address: host:port, or a port", "ADDRESS", (ProxyConfig, "stat")),
        Flag(("-metrics",), "serve /metrics there", overrides=(ProxyConfig, "use_metrics")),
        Flag(("-std",), "log to standard output", overrides=(ProxyConfig, "stdout")),
        Flag(("-debug",), "the same as -std", overrides=(ProxyConfig, "debug")),
        Flag(("-log",), "log to this file", "FILE", (ProxyConfig, "log")),
        Flag(
            ("-log-vl",), "how much to log: 1, 2 what happens; 3.. each detail", "N", (ProxyConfig, "log_lv")
        ),
    ),
    "overriding the -cluster file": (
        Flag(
            ("-slower-than",),
            "requests that take longer are slow, for every cluster",
            "MICROSECONDS",
            (ClusterConfig, "slowlog_slower_than"),
        ),
    ),
    "slow log": (
        Flag(
            ("-slowlog",), "write slow requests to this file, beside /slowlog", "FILE", (Options, "slowlog")
        ),
        Flag(("-slower-max-bytes",), "rotate the file at this size", "BYTES", (Options, "slower_max_bytes")),
        Flag(("-slower-backup-count",), "rotated files to keep", "N", (Options, "slower_backup_count")),
    ),
    "while serving": (Flag(("-reload",), "when the files change, read them again, as by SIGHUP"),),
}


ALL = tuple(flag for group in FLAGS.values() for flag in group)

# Go's spellings of a switch's value.
ON = ("1", "t", "T", "true", "TRUE", "True")
OFF = ("0", "f", "F", "false", "FALSE", "False")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def _parser() -> _Parser:
    parser = _Parser(
        PROGRAM,
        usage=f"{PROGRAM} -cluster FILE [-conf FILE] [flags]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    for title, flags in FLAGS.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            if flag.metavar:
                how: dict[str, Any] = {"metavar": flag.metavar, "type": flag.value}
            else:
                how = {"action": "store_true"}
            group.add_argument(*flag.names, dest=flag.dest, help=flag.help, **how)
    return parser


def _plain(argv: Sequence[str]) -> list[str]:
    """The flags as argparse can't misread them: ``-x`` or ``-x=VALUE``, whatever VALUE begins with."""
    flags = {name.lstrip("-"): flag for flag in ALL for name in flag.names}
    plain: list[str] = []
    words = iter(argv)
    for word in words:
        written = word.removeprefix("-").removeprefix("-")
        if written in ("", word):
            raise UsageError(f"{shown(word) or repr(word)}: not a flag; everything is given by flags")
        name, equals, value = written.partition("=")
        flag = flags.get(name)
        if flag is None:
            close = difflib.get_close_matches(name, flags, 1)
            raise UsageError(
                f"-{shown(name)}: no such flag" + (f"; did you mean -{close[0]}?" if close else "")
            )
        option = flag.names[0]
        if flag.metavar:
            value = value if equals else next(words, "--")
            if value == "--":
                raise UsageError(f"{option}: no {flag.metavar} after it")
            plain.append(f"{option}={value}")
        elif not equals or value in ON:
            plain.append(option)
        elif value not in OFF:
            raise UsageError(f"{option}: {shown(value)} is neither true nor false")
        else:
            plain = [other for other in plain if other != option]
    return plain


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """What the flags say, each by its ``dest``; None or False where there is none. Raises UsageError."""
    return _parser().parse_args(_plain(argv))


def configure(given: argparse.Namespace) -> tuple[Config, Options]:
    """Both files, with what flags override, and what only flags say. Raises ConfigError and UsageError."""
    if not given.cluster:
        raise UsageError("-cluster FILE is missing: it names the clusters to serve; --help tells more")
    values = [(flag.overrides, getattr(given, flag.dest)) for flag in ALL if flag.overrides]

    def overrides(config: type) -> dict[str, Any]:
        return {place[1]: value for place, value in values if place[0] is config and value}

    options = {place[1]: value for place, value in values if place[0] is Options and value is not None}
    config = load(
        given.cluster,
        given.conf,
        proxy_flags=overrides(ProxyConfig),
        cluster_flags=overrides(ClusterConfig),
    )
    return config, Options(**options)


def _changes(given: argparse.Namespace, new: Config) -> str:
    """What changes from the files in the -against directory to the ones given."""
    directory = Path(given.against)
    old = argparse.Namespace(**vars(given))
    old.cluster = str(directory / Path(given.cluster).name)
    old.conf = str(directory / Path(given.conf).name) if given.conf else given.conf
    try:
        changes = str(compare(configure(old)[0], new))
    except ConfigError as error:
        changes = f"restart needed, for what is there can't be used: {error}"
    return f"against {shown(directory)}: {changes}"


def _summary(given: argparse.Namespace, config: Config) -> str:
    files = ", ".join(shown(file) for file in (given.conf, given.cluster) if file)
    clusters = ", ".join(f"{cluster.name} on {cluster.listen_addr}" for cluster in config.clusters)
    count = len(config.clusters)
    return f"{files}: {count} cluster{'s' if count > 1 else ''} ({clusters}): ok"


def _probe(config: Config) -> int:
    from proxy.probe import probe

    try:
        for line in probe(config):
            print(line)
    except OSError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    return 0


def _complain(problem: object) -> int:
    print(f"{PROGRAM}: {problem}", file=sys.stderr)
    return WRONG


def main(argv: Sequence[str]) -> int:
    """Does what the flags (those after the program's name) ask for; returns the exit status."""
    try:
        given = parse(argv)
        if given.help:
            print(_parser().format_help(), end="")
            return 0
        if given.version:
            print(__version__)
            return 0
        config, options = configure(given)
    except (UsageError, ConfigError) as error:
        return _complain(error)
    if given.check:
        print(_summary(given, config))
        if given.against:
            print(_changes(given, config))
        return 0
    if given.against:
        return _complain("-against goes with --check")
    if given.probe:
        return _probe(config)
    try:
        running = log.setup(config.proxy)
    except OSError as error:
        return _complain(f"log = {shown(config.proxy.log)}: can't be opened: {error.strerror}")
    try:
        # After a crash in compiled code, and systemd's SIGABRT, the stacks of all threads are on stderr.
        faulthandler.enable()
        from proxy.server import serve  # checking the files needs nothing of the data plane

        files = [Path(file) for file in (given.cluster, given.conf) if file and given.reload]
        return serve(config, options, lambda: configure(given)[0], files)
    finally:
        running.stop()
