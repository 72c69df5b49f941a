"""A worker: one thread, its data plane, and the mailbox by which other threads reach it."""

import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from proxy import answers
from proxy.address import Address
from proxy.answers import Answer, Client
from proxy.commands import CommandTable
from proxy.config import Config
from proxy.context import Control, WorkerContext
from proxy.counters import SlowEntry, Snapshot, Totals
from proxy.dataplane import DataPlane
from proxy.dialer import Dialer
from proxy.pubsub import Tally
from proxy.reply import error
from proxy.topology import Topology

log = logging.getLogger("proxy.worker")

T = TypeVar("T")

# Why the data plane refuses a request; kept in step with Verdict in dispatch.pyx.
UNKNOWN_COMMAND, UNKNOWN_SUBCOMMAND, WRONG_ARITY, NOT_SUPPORTED, SUBSCRIBED, DENIED = range(6)

NOBODY = "?:0"
"""The address of a client that has reset its connection, as Redis writes it."""
DISCARDED = b"Transaction discarded because of: %b"


class Worker:
    """Sessions and upstreams of one thread. Only ``post`` and the reading methods are thread-safe."""

    def __init__(
        self,
        number: int,
        workers: int,
        config: Config,
        *,
        control: Control,
        dialer: Dialer,
        tallies: Sequence[Tally],
    ) -> None:
        """``tallies``: one for each cluster, shared by all workers."""
        self.number = number
        self.config = config
        self.control = control
        self.dialer = dialer
        self._handed = 0
        self._turned = True
        self._messages: deque[Callable[[], None]] = deque()
        self._mailbox = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.commands: CommandTable
        self.peers: Sequence[Worker] = [self]
        """All workers of the process, this one too."""
        self.plane = DataPlane(self, self._mailbox, config, workers)
        self.contexts = [WorkerContext(self, cluster, tally) for cluster, tally in enumerate(tallies)]
        self.thread = threading.Thread(target=self.plane.run, name=f"worker-{number}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    # --- for other threads -------------------------------------------------------------------

    def post(self, message: Callable[[], None]) -> None:
        """Has the worker's thread call ``message`` at its next turn."""
        self._messages.append(message)
        os.eventfd_write(self._mailbox, 1)

    def ask(self, question: Callable[[DataPlane], T]) -> Future[T]:
        """What the worker's thread answers at its next turn."""
        answer: Future[T] = Future()
        self.post(partial(self._answer, question, answer))
        return answer

    def pulse(self) -> bool:
        """Whether the worker has made a turn since this was last asked."""
        alive, self._turned = self._turned, False
        self.post(partial(setattr, self, "_turned", True))
        return alive

    @property
    def load(self) -> int:
        """Sessions open, or on their way here."""
        return self._handed - self.plane.sessions_closed

    def add_session(self, cluster: int, fd: int, id_: int) -> None:
        """Hands a client's socket over; only the main thread does."""
        self._handed += 1
        self.post(partial(self.plane.add_session, cluster, fd, id_))

    def set_topology(self, cluster: int, topology: Topology, near: frozenset[Address]) -> None:
        """``near``: the servers in our own availability zone."""
        self.post(partial(self._set_topology, cluster, topology, {str(server) for server in near}))

    def blocked(self, cluster: int) -> int:
        """Sessions that wait in a blocking command."""
        return self.plane.blocked(cluster)

    def snapshot(self, cluster: int) -> Snapshot:
        return self.plane.snapshot(cluster)

    def totals(self) -> Totals:
        return self.plane.totals()

    def slow_entries(self, cluster: int, after: int) -> list[SlowEntry]:
        return self.plane.slow_entries(cluster, after)

    def client_of(self, session: int) -> Client | None:
        """What is known of a session; None if it has gone or has used no command that is answered here."""
        return self.plane.client(session)

    def set_commands(self, table: CommandTable) -> None:
        self.post(partial(self._set_commands, table))

    def configure(self, config: Config) -> None:
        """Has the worker go by a configuration of the same clusters."""
        self.post(partial(self._configure, config))

    def eject(self, cluster: int, server: Address, ejected: bool) -> None:
        self.post(partial(self.plane.eject, cluster, str(server), ejected))

    def drain(self, grace: float) -> None:
        """See ``DataPlane.drain``; ``grace`` is in seconds."""
        self.post(partial(self.plane.drain, grace))

    def stop(self) -> None:
        self.post(self.plane.stop)

    # --- called by the data plane, in the worker's thread ------------------------------------

    def mail(self) -> None:
        while self._messages:
            message = self._messages.popleft()
            try:
                message()
            except Exception:
                log.exception("%r", message)

    def _answer(self, question: Callable[[DataPlane], T], answer: Future[T]) -> None:
        try:
            answer.set_result(question(self.plane))
        except Exception as error:  # whoever asked is told
            answer.set_exception(error)

    def _configure(self, config: Config) -> None:
        self.config = config
        self.plane.configure(config)
        self._deny()

    def _set_topology(self, cluster: int, topology: Topology, near: set[str]) -> None:
        self.contexts[cluster].topology = topology
        self.plane.set_topology(
            cluster,
            [
                (str(shard.master), shard.ranges, [str(replica) for replica in shard.replicas])
                for shard in topology.shards
            ],
            near,
        )
        self.contexts[cluster].hub.topology_changed()

    def _set_commands(self, table: CommandTable) -> None:
        self.commands = table
        self.plane.set_commands(table)
        self._deny()

    def _deny(self) -> None:
        for index, cluster in enumerate(self.config.clusters):
            self.plane.deny(index, self.commands.denied(cluster.denied_commands))

    def dial(self, cluster: int, server: str, protocol: int, number: int, pinned: bool) -> None:
        def opened(fd: int, peer: int) -> None:
            self.post(partial(self.plane.opened, cluster, server, number, fd, peer))

        def refused(why: str) -> None:
            self.post(partial(self.plane.refused, cluster, server, number, why))

        self.dialer.dial(
            self.config.clusters[cluster],
            server,
            protocol,
            pinned=pinned,
            opened=opened,
            refused=refused,
        )

    def refresh(self, cluster: int, reason: str) -> None:
        self.control.refresh(cluster, reason)

    def client(self, session: int, fd: int, cluster: int, since: float) -> Client:
        """What CLIENT commands know of a session that came at ``since``; made when it is first wanted."""
        with socket.socket(fileno=os.dup(fd)) as connection:
            name = _endpoint(connection.getsockname())
            try:
                peer = _endpoint(connection.getpeername())
            except OSError:
                peer = NOBODY
        return Client(session, peer, name, created=since)

    def answer(self, client: Client, cluster: int, args: list[bytes]) -> Answer:
        """The reply to a command that is answered here, or what it takes."""
        return answers.answer(client, self.contexts[cluster], args)

    def messages(self, cluster: int, server: str, messages: list[bytes]) -> None:
        """What a server's subscription connection has brought."""
        hub = self.contexts[cluster].hub
        try:
            for message in messages:
                hub.received(server, message)
        except ValueError as error:
            log.warning("cluster=%s server=%s subscriptions: %s", self._name(cluster), server, error)
            self.plane.drop_subscriber(cluster, server)

    def _name(self, cluster: int) -> str:
        return self.config.clusters[cluster].name

    def subscriber_opened(self, cluster: int, server: str) -> None:
        self.contexts[cluster].hub.opened(server)

    def subscriber_lost(self, cluster: int, server: str) -> None:
        self.contexts[cluster].hub.lost(server)

    def unsubscribed(self, cluster: int, session: int) -> None:
        """A session with subscriptions has ended."""
        self.contexts[cluster].hub.forget(session)

    def refuse(self, verdict: int, command: int, args: list[bytes]) -> bytes:
        """The error for a request that gets no further; ``args`` may be clipped."""
        if verdict == UNKNOWN_SUBCOMMAND:
            return answers.unknown_subcommand(args[0], args[1])
        if verdict == WRONG_ARITY:
            name = self.commands.commands[command].name
            wrong = answers.wrong_arity(name)
            # EXEC has no error but that the transaction has failed.
            return error(DISCARDED % wrong[5:-2], "EXECABORT") if name == "exec" else wrong
        if verdict == NOT_SUPPORTED:
            return answers.refused(self.commands.commands[command], args)
        if verdict == SUBSCRIBED:
            name = self.commands.commands[command].name
            return error(
                f"Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET "
                "are allowed in this context"
            )
        if verdict == DENIED:
            name = self.commands.commands[command].name
            return error(f"'{name}' is denied: see denied_commands in the proxy's configuration", "NOPERM")
        return answers.unknown_command(args)


def _endpoint(address: tuple[str, int] | str) -> str:
    """An address as Redis writes it: host:port, or the socket's path and a zero."""
    return f"{address}:0" if isinstance(address, str) else f"{address[0]}:{address[1]}"
