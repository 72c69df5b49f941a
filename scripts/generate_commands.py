"""Writes ``proxy/commands.json``: every command of some real servers, one a line.

    python -m scripts.generate_commands SERVER... [--output FILE]

A SERVER is HOST:PORT, or ``redis-server`` or another program: it is started for the purpose and ended
again. A command is described as the first server that has it does, and ``"servers"`` tells which have it,
as indices of the servers at the head of the file. The same versions always give the same file.

It was made of redis-server 7.0.15 (Debian 12), and of 8.0.2, which has all of 7.2 and 7.4, and
valkey-server 8.1.1 (both of Debian 13).
"""

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hiredis

from proxy.commands import Row, rows_of

OUTPUT = Path(__file__).parents[1] / "proxy" / "commands.json"
START_LIMIT = 10.0  # seconds for the server to start


class Listing(NamedTuple):
    """What a server tells of its commands, but for those of modules, which the proxy learns at run time."""

    server: str  # "redis 7.0.15"
    rows: list[Row]
    docs: dict[str, dict[str, Any]]  # COMMAND DOCS by name, subcommands too


def ask(connection: socket.socket, command: str) -> Any:
    """The reply to an inline command. Raises OSError, and hiredis's ReplyError for an error reply."""
    connection.sendall(f"{command}\r\n".encode())
    reader = hiredis.Reader()
    while (reply := reader.gets()) is False:
        data = connection.recv(1 << 16)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        reader.feed(data)
    if isinstance(reply, hiredis.ReplyError):
        raise reply
    return reply


@contextmanager
def own_server(name: str = "redis-server") -> Iterator[socket.socket]:
    """A connection to a server that lives as long as the context. Raises FileNotFoundError and OSError."""
    program = shutil.which(name)
    if program is None:
        raise FileNotFoundError(f"there is no program {name!r}: install it or name a server as HOST:PORT")
    with tempfile.TemporaryDirectory(prefix="commands-") as directory:
        path = f"{directory}/socket"
        server = subprocess.Popen(
            [program, "--port", "0", "--unixsocket", path, "--dir", directory, "--save", ""],
            stdout=subprocess.DEVNULL,
        )
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                deadline = time.monotonic() + START_LIMIT
                while True:
                    try:
                        connection.connect(path)
                        break
                    except OSError:
                        if server.poll() is not None or time.monotonic() > deadline:
                            raise
                        time.sleep(0.01)
                yield connection
        finally:
            server.terminate()
            server.wait()


def version_of(connection: socket.socket) -> str:
    """What the server is: "redis 7.0.15"."""
    info: bytes = ask(connection, "INFO server")
    fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    name = fields.get("server_name", "redis")
    return f"{name} {fields.get(f'{name}_version', fields['redis_version'])}"


def documentation(reply: list[Any]) -> dict[str, dict[str, Any]]:
    """COMMAND DOCS by name, subcommands too."""
    found: dict[str, dict[str, Any]] = {}
    for name, entry in zip(reply[::2], reply[1::2], strict=True):
        fields = {key.decode(): value for key, value in zip(entry[::2], entry[1::2], strict=True)}
        found[name.decode()] = fields
        found.update(documentation(fields.get("subcommands", [])))
    return found


def listing_of(connection: socket.socket) -> Listing:
    rows = [row for row in rows_of(ask(connection, "COMMAND")) if "module" not in row.flags]
    return Listing(version_of(connection), rows, documentation(ask(connection, "COMMAND DOCS")))


def widest(arities: Sequence[int]) -> int:
    """The arity that admits what any of these does: the servers have the last word."""
    if len(set(arities)) == 1:
        return arities[0]
    return -min(abs(arity) for arity in arities)


def generate(listings: Sequence[Listing]) -> str:
    """The text of the file."""
    found: dict[str, list[tuple[int, Row]]] = {}
    for index, listing in enumerate(listings):
        for row in listing.rows:
            found.setdefault(row.name, []).append((index, row))
    lines = []
    for name in sorted(found):
        indices, rows = zip(*found[name], strict=True)
        doc = listings[indices[0]].docs.get(name, {})
        lines.append(
            json.dumps(
                {
                    **rows[0]._replace(arity=widest([row.arity for row in rows]))._asdict(),
                    "group": doc.get("group", b"").decode(),
                    "since": doc.get("since", b"").decode(),
                    "servers": indices,
                }
            )
        )
    servers = json.dumps([listing.server for listing in listings])
    return f'{{"servers": {servers}, "commands": [\n' + ",\n".join(lines) + "\n]}\n"


@contextmanager
def connected(server: str) -> Iterator[socket.socket]:
    """A connection to HOST:PORT, or to a program started for it. Raises OSError and ValueError."""
    host, colon, port = server.rpartition(":")
    if not colon:
        with own_server(server) as connection:
            yield connection
    elif not port.isdecimal():
        raise ValueError(f"address {server!r} is not HOST:PORT")
    else:
        with socket.create_connection((host.strip("[]"), int(port))) as connection:
            yield connection


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the command table from servers' COMMAND.")
    parser.add_argument("servers", nargs="+", metavar="SERVER", help="HOST:PORT, or a program to start")
    parser.add_argument("--output", metavar="FILE", type=Path, default=OUTPUT, help="default: %(default)s")
    options = parser.parse_args()
    with ExitStack() as stack:
        try:
            connections = [stack.enter_context(connected(server)) for server in options.servers]
        except (OSError, ValueError) as error:
            parser.error(str(error))
        text = generate([listing_of(connection) for connection in connections])
    options.output.write_text(text)
    sys.stdout.write(f"{options.output}: {text.count(chr(10)) - 2} commands\n")


if __name__ == "__main__":
    main()
