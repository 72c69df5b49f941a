"""Writes ``proxy/commands.json``: every command of a real server, one a line.

    python -m scripts.generate_commands [HOST:PORT] [--output FILE]

Without an address it asks a redis-server of its own, started for the purpose and ended again.
The same server version always gives the same file.
"""

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis

from proxy.commands import rows_of

OUTPUT = Path(__file__).parents[1] / "proxy" / "commands.json"
START_LIMIT = 10.0  # seconds for the server to start


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
def own_server() -> Iterator[socket.socket]:
    """A connection to a redis-server that lives as long as the context."""
    program = shutil.which("redis-server")
    if program is None:
        raise FileNotFoundError("there is no redis-server in PATH: install it or name a server")
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


def generate(connection: socket.socket) -> str:
    """The text of the file."""
    docs = documentation(ask(connection, "COMMAND DOCS"))
    lines = []
    for row in sorted(rows_of(ask(connection, "COMMAND"))):
        doc = docs.get(row.name, {})
        lines.append(
            json.dumps(
                {
                    **row._asdict(),
                    "group": doc.get("group", b"").decode(),
                    "since": doc.get("since", b"").decode(),
                }
            )
        )
    return f'{{"server": "{version_of(connection)}", "commands": [\n' + ",\n".join(lines) + "\n]}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the command table from a server's COMMAND.")
    parser.add_argument("address", nargs="?", metavar="HOST:PORT", help="default: a server of our own")
    parser.add_argument("--output", metavar="FILE", type=Path, default=OUTPUT, help="default: %(default)s")
    options = parser.parse_args()
    if options.address is None:
        with own_server() as connection:
            text = generate(connection)
    else:
        host, _, port = options.address.rpartition(":")
        if not port.isdecimal():
            parser.error(f"address {options.address!r} is not HOST:PORT")
        with socket.create_connection((host.strip("[]"), int(port))) as connection:
            text = generate(connection)
    options.output.write_text(text)
    sys.stdout.write(f"{options.output}: {text.count(chr(10)) - 2} commands\n")


if __name__ == "__main__":
    main()
