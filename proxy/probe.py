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

    Reads only, of keys that nobody has: it leaves no trace. Of a cluster of whose users' passwords only the
    SHA-256 is known, it can tell no more than that it answers.
    """
    return [_probe(cluster) for cluster in config.clusters]


def _probe(cluster: ClusterConfig) -> str:
    began = time.monotonic()
    where = f"cluster {cluster.name} on {cluster.listen_addr}"
    user, password = _credentials(cluster)
    try:
        with _connect(cluster.listen_addr) as connection:
            if password:
                connection.call("AUTH", user, password)
            commands = [("EXISTS", f"redis-proxy:probe:{number}") for number in range(KEYS)]
            errors = [reply for reply in connection.pipeline(commands) if isinstance(reply, ReplyError)]
            if errors and not (_is_locked_out(cluster) and str(errors[0]).startswith("NOAUTH ")):
                raise errors[0]
    except (OSError, ReplyError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OSError(f"{where}: {reason}") from error
    took = f"{(time.monotonic() - began) * 1000:.0f} ms"
    if errors:
        return f"{where}: answered in {took}; no user's password is known, so no key was read"
    return f"{where}: {KEYS} keys read in {took}"


def _credentials(cluster: ClusterConfig) -> tuple[str, str]:
    """A user whose password is known; "" for both if there is none."""
    if cluster.client_password:
        return "default", cluster.client_password
    known = ((user.name, user.password) for user in cluster.client_users if user.password)
    return next(known, ("", ""))


def _is_locked_out(cluster: ClusterConfig) -> bool:
    return bool(cluster.client_users) and _credentials(cluster) == ("", "")


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
