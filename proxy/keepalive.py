"""TCP keepalive, on both sides of the proxy.

A load balancer drops an idle flow without a word to either end: probes keep it known, and find a
peer that has gone.
"""

import socket

DEFAULT = 60_000
"""ms of silence before the first probe."""
PROBES = 3


def keep_alive(connection: socket.socket, after: int = DEFAULT) -> None:
    """Has the kernel probe after so many ms of silence; 0 turns it off. Raises OSError."""
    if not after:
        return
    seconds = max(1, after // 1000)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, seconds // PROBES))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
