"""Listening sockets of clusters, and the clients' sockets they bring."""

import errno
import socket
from collections.abc import Iterable
from pathlib import Path

from proxy.address import Address
from proxy.config import ClusterConfig
from proxy.keepalive import keep_alive

BACKLOG = 16384
"""Connections the kernel may keep for us; it takes the smaller of this and net.core.somaxconn."""

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """The listening socket of one cluster."""

    def __init__(
        self, cluster: int, config: ClusterConfig, passed: dict[Address | str, socket.socket]
    ) -> None:
        """Takes the socket that was passed on for the address, else listens at once.

        Raises OSError, with the address in its text, when it can't.
        """
        self.cluster = cluster
        self.address = config.listen_addr
        ready = passed.pop(_resolved(self.address), None) if passed else None
        self._passed = ready is not None
        try:
            self.socket = ready or (
                _listen_tcp(self.address)
                if isinstance(self.address, Address)
                else _listen_unix(Path(self.address))
            )
        except OSError as error:
            raise OSError(
                error.errno, f"cluster {config.name}: listen on {self.address}: {error.strerror}"
            ) from error
        self.socket.setblocking(False)

    @property
    def port(self) -> int:
        """0 for a unix listener."""
        return self.address.port if isinstance(self.address, Address) else 0

    def close(self) -> None:
        """Accepts no more. A socket that was passed on, and its file, stay where they came from."""
        self.socket.close()
        if not (self._passed or isinstance(self.address, Address)):
            Path(self.address).unlink(missing_ok=True)


def open_listeners(clusters: Iterable[ClusterConfig], passed: Iterable[socket.socket]) -> list[Listener]:
    """One listener for each cluster, on the sockets passed on as far as they go.

    Raises OSError when one can't listen, and when a socket was passed on that no cluster listens on: clients
    would connect to it, and wait for ever.
    """
    ready = {_local(one): one for one in passed}
    listeners: list[Listener] = []
    try:
        for index, cluster in enumerate(clusters):
            listeners.append(Listener(index, cluster, ready))
        if ready:
            raise OSError(
                errno.EINVAL,
                f"systemd passes a socket on {next(iter(ready))}, where no cluster listens: "
                "listen_addr of [[clusters]] and ListenStream of the socket unit must be the same",
            )
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _local(listener: socket.socket) -> Address | str:
    """Where a socket listens, as ``listen_addr`` has it."""
    name = listener.getsockname()
    return name if isinstance(name, str) else Address(name[0], name[1])


def _resolved(address: Address | str) -> Address | str:
    """The address with its host as a number; itself when its name can't be resolved."""
    if isinstance(address, str) or ":" in address.host:
        return address
    try:
        return Address(socket.gethostbyname(address.host), address.port)
    except OSError:
        return address


def _listen_tcp(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _listen_unix(path: Path) -> socket.socket:
    """A socket file that nobody listens on any more is replaced; one in use is not."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise OSError(errno.EADDRINUSE, "another process listens on it")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def prepare(client: socket.socket, keepalive: int) -> None:
    """Makes a client's socket ready for a worker; ``keepalive`` is in ms, 0 turns it off."""
    client.setblocking(False)
    if client.family != socket.AF_UNIX:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(client, keepalive)
