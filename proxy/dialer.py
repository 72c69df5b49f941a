"""Connections to servers for the data plane: made, authenticated and greeted in other threads.

A worker never waits for a connection: it asks here, and gets a descriptor or a reason.
"""

import logging
from collections.abc import Callable
from functools import partial

from proxy.address import Address
from proxy.config import ClusterConfig
from proxy.control import Connection, ReplyError
from proxy.descriptors import Descriptors
from proxy.pool import Pool

log = logging.getLogger("proxy.dialer")

MOST_AT_ONCE = 8
"""Dials of one server; others' do not wait for those of one that hangs."""
LONGEST_DIAL = 10.0
"""Seconds a dial may take when the configuration sets no limit: threads must not wait for ever."""


def _ask(connection: Connection, *command: str) -> int | None:
    """The reply; None from one that runs a script: what is to end the script must reach it."""
    try:
        reply: int = connection.call(*command)
    except ReplyError as error:
        if not str(error).startswith("BUSY "):
            raise
        return None
    return reply


def _peer_id(connection: Connection) -> int:
    """What the server calls the connection; 0 if that can't be known now. Raises ValueError."""
    reply = _ask(connection, "CLIENT", "ID") or 0
    if not (isinstance(reply, int) and 0 <= reply < 1 << 63):
        raise ValueError(f"{connection.address}: {str(reply)[:100]!r} is no CLIENT ID")
    return reply


class Dialer:
    """Threads that connect, some for each server."""

    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors
        self._pools: dict[str, Pool] = {}

    def dial(
        self,
        cluster: ClusterConfig,
        server: str,
        protocol: int,
        *,
        pinned: bool,
        opened: Callable[[int, int], None],
        refused: Callable[[str], None],
    ) -> None:
        """Connects to ``server`` (host:port) speaking RESP ``protocol``.

        Calls ``opened`` with a nonblocking descriptor and the connection's CLIENT ID, which is 0 unless
        ``pinned``, or ``refused`` with a reason, in some thread.
        """
        # Several workers may come at once: setdefault lets one of their pools be everyone's.
        pool = self._pools.get(server) or self._pools.setdefault(server, Pool("dialer", MOST_AT_ONCE))
        pool.submit(
            partial(self._dial, cluster, server, protocol, pinned=pinned, opened=opened, refused=refused)
        )

    def _dial(
        self,
        cluster: ClusterConfig,
        server: str,
        protocol: int,
        *,
        pinned: bool,
        opened: Callable[[int, int], None],
        refused: Callable[[str], None],
    ) -> None:
        limit = cluster.dial_timeout / 1000 or LONGEST_DIAL
        try:
            if pinned and self._descriptors.scarce:
                raise OSError("no descriptor is left for a connection of a client's own")
            with Connection.to(cluster, Address.parse(server), limit, protocol) as connection:
                # A server that accepts but does not serve (loading, out of clients) says so now.
                _ask(connection, "PING")
                if cluster.read_from != "master":
                    _ask(connection, "READONLY")
                peer = _peer_id(connection) if pinned else 0
                descriptor = connection.detach()
        except (OSError, ReplyError, ValueError) as error:
            log.debug("cluster=%s server=%s: %s", cluster.name, server, error)
            refused(str(error))
        except Exception:  # whoever waits must not do so for ever
            log.exception("cluster=%s server=%s", cluster.name, server)
            refused("could not be connected to")
        else:
            opened(descriptor, peer)

    def close(self) -> None:
        for pool in list(self._pools.values()):
            pool.close()
