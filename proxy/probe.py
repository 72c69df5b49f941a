"""Proves that the proxy of these files serves: does what a client does, through its own port."""

import socket
import time

from proxy.address import Address
from proxy.config import ClusterConfig, Config
from proxy.control import Connection, ReplyError

KEYS = 256
"""Keys read, at random places among the slots: on a cluster of up to some dozens of shards, of every one."""
PATIENCE = 5.0
"""Seconds that connecting, and each reply, may take."""


def probe(config: Config) -> list[str]:
    """Reads some keys of every cluster; returns a line each. Raises OSError that names the cluster.

    Reads only, of keys that nobody has: it leaves no trace.
    """
    return [_probe(cluster) for cluster in config.clusters]


def _probe(cluster: ClusterConfig) -> str:
    began = time.monotonic()
    where = f"cluster {cluster.name} on {cluster.listen_addr}"
    try:
        with _connect(cluster.listen_addr) as connection:
            commands = [("EXISTS", f"redis-proxy:probe:{number}") for number in range(KEYS)]
            for reply in connection.pipeline(commands):
                if isinstance(reply, ReplyError):
                    raise reply
    except (OSError, ReplyError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OSError(f"{where}: {reason}") from error
    return f"{where}: {KEYS} keys read in {(time.monotonic() - began) * 1000:.0f} ms"


def _connect(listen: Address | str) -> Connection:
    """Connects where a client on this machine does. Raises OSError."""
    if isinstance(listen, Address):
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)
        return Connection.open(Address(host, listen.port), dial_timeout=PATIENCE, timeout=PATIENCE)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    try:
        client.connect(listen)
    except OSError:
        client.close()
        raise
    return Connection(client, listen)
