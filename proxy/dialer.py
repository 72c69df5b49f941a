"""Connections to servers for the data plane: made, authenticated and greeted in other threads.

A worker never waits for a connection: it asks here, and gets a descriptor or a reason.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from proxy.address import Address
from proxy.config import ClusterConfig
from proxy.control import Connection, ReplyError

log = logging.getLogger("proxy.dialer")

MOST_AT_ONCE = 32
LONGEST_DIAL = 10.0
"""Seconds a dial may take when the configuration sets no limit: threads must not wait for ever."""


class Dialer:
    """Threads that connect."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="dialer")

    def dial(
        self,
        cluster: ClusterConfig,
        server: str,
        protocol: int,
        opened: Callable[[int], None],
        refused: Callable[[str], None],
    ) -> None:
        """Connects to ``server`` (host:port) speaking RESP ``protocol``.

        Calls ``opened`` with a nonblocking descriptor or ``refused`` with a reason, in some thread.
        """
        self._threads.submit(self._dial, cluster, server, protocol, opened, refused)

    def _dial(
        self,
        cluster: ClusterConfig,
        server: str,
        protocol: int,
        opened: Callable[[int], None],
        refused: Callable[[str], None],
    ) -> None:
        limit = cluster.dial_timeout / 1000 or LONGEST_DIAL
        try:
            connection = Connection.open(
                Address.parse(server),
                dial_timeout=limit,
                timeout=limit,
                user=cluster.redis_user,
                password=cluster.redis_auth,
                protocol=protocol,
            )
            # A server that accepts but does not serve (loading, out of clients) says so now.
            connection.call("PING")
        except (OSError, ReplyError, ValueError) as error:
            log.debug("cluster=%s server=%s: %s", cluster.name, server, error)
            refused(str(error))
        else:
            opened(connection.detach())

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
