"""A real Redis Cluster, and a plain redis-server, on loopback or in network namespaces."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lab.network import Namespace, Network
from lab.processes import Started, end, free_ports, start, wait_until
from proxy.address import Address
from proxy.control import Connection, ReplyError
from proxy.slots import slot_of

SLOTS = 16384
PORT = 6379
ANSWER_TIME = 10.0
"""Seconds a server may take to answer the lab."""


class Place(NamedTuple):
    """Where a server listens."""

    host: str
    port: int
    namespace: Namespace | None = None


def places_in(network: Network, count: int) -> list[Place]:
    """For so many servers, each in a network namespace of its own. Raises RuntimeError."""
    namespaces = [network.namespace(str(number), number) for number in range(2, count + 2)]
    return [Place(namespace.address, PORT, namespace) for namespace in namespaces]


class RedisServer(Started):
    """One redis-server process. Without options, a plain one that keeps nothing on disk."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        password: str = "",
        directory: Path | None = None,
        namespace: Namespace | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        """``options`` are redis-server's, by their names in its configuration file."""
        self.host = host
        self.port = port or free_ports(1)[0]
        self.password = password
        self.process: subprocess.Popen[bytes] | None = None
        self.replica_of = ""
        """The master's node id it was started to follow; "" for a master."""
        self._options = options or {}
        self._namespace = namespace
        self._own = directory is None
        self._directory = directory or Path(tempfile.mkdtemp(prefix="redis-"))

    @property
    def address(self) -> Address:
        return Address(self.host, self.port)

    @property
    def directory(self) -> Path:
        """Where it keeps its files, and its log."""
        return self._directory

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    def start(self) -> None:
        """Starts the process and waits until it answers. Raises RuntimeError when it can't."""
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError("redis-server is not installed (Debian, Ubuntu: apt-get install redis-server)")
        self._directory.mkdir(parents=True, exist_ok=True)
        options = {
            "port": str(self.port),
            "bind": self.host,
            "dir": str(self._directory),
            "protected-mode": "no",
            "save": "",
            "appendonly": "no",
            **({"requirepass": self.password, "masterauth": self.password} if self.password else {}),
            **self._options,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        prefix = self._namespace.prefix if self._namespace else ()
        self.process = start([*prefix, program, *words], self._directory / "log")
        wait_until(f"redis-server on port {self.port} answers", self._answers)

    def _answers(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"redis-server ended:\n{(self._directory / 'log').read_text()}")
        try:
            return bool(self.call("PING") == b"PONG")
        except (OSError, ReplyError):
            return False

    def call(self, *args: str | bytes | int) -> Any:
        """One command on a connection of its own. Raises OSError or ReplyError."""
        with Connection.open(
            self.address, dial_timeout=ANSWER_TIME, timeout=ANSWER_TIME, password=self.password
        ) as connection:
            return connection.call(*args)

    def kill(self) -> None:
        """kill -9"""
        if self.process:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """SIGSTOP: its sockets stay open, and it says nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def cut(self) -> None:
        """Nobody reaches it any more, and it reaches nobody. Only in a namespace."""
        assert self._namespace is not None, "not in a namespace"
        self._namespace.cut()

    def mend(self) -> None:
        assert self._namespace is not None, "not in a namespace"
        self._namespace.mend()

    def stop(self) -> None:
        if self.process:
            end(self.process)
        if self._own:
            shutil.rmtree(self._directory, ignore_errors=True)

    # --- as a node of a cluster --------------------------------------------------------------

    @property
    def id(self) -> str:
        return str(self.call("CLUSTER", "MYID").decode())

    def state(self) -> dict[str, str]:
        """CLUSTER INFO."""
        lines = self.call("CLUSTER", "INFO").decode().split()
        return dict(line.split(":", 1) for line in lines)

    def role(self) -> str:
        return str(self.call("ROLE")[0].decode())


class RedisCluster(Started):
    """Masters and replicas; every process is ours and ends with us."""

    def __init__(
        self,
        masters: int = 3,
        replicas: int = 1,
        *,
        node_timeout: int = 2000,
        password: str = "",
        places: Sequence[Place] = (),
        options: Mapping[str, str] | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """``replicas`` are for each master, ``node_timeout`` is in ms, ``options`` are redis-server's.

        A server takes its place's port and the one 10000 above. Without ``places`` they are on loopback,
        where ports are free.
        """
        self._directory = Path(tempfile.mkdtemp(prefix="redis-cluster-"))
        self._progress = progress or (lambda _: None)
        self._count = (masters, replicas)
        self._node_timeout = node_timeout
        self._password = password
        self._options = options or {}
        self.nodes = [self._node(place) for place in places or _on_loopback(masters * (1 + replicas))]

    def _node(self, place: Place) -> RedisServer:
        options = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": str(self._node_timeout),
            "cluster-replica-validity-factor": "0",
            "cluster-require-full-coverage": "no",
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",
            **self._options,
        }
        return RedisServer(
            host=place.host,
            port=place.port,
            password=self._password,
            directory=self._directory / f"{place.host}-{place.port}",
            namespace=place.namespace,
            options=options,
        )

    @property
    def addresses(self) -> list[Address]:
        return [node.address for node in self.nodes]

    @property
    def running(self) -> list[RedisServer]:
        return [node for node in self.nodes if node.process and node.process.poll() is None]

    @property
    def masters(self) -> list[RedisServer]:
        """The nodes that are masters now, by their own word."""
        return [node for node in self.running if node.role() == "master"]

    def start(self) -> None:
        """Starts all nodes and joins them. Raises RuntimeError or TimeoutError."""
        masters, _ = self._count
        for node in self.nodes:
            node.start()
        self._progress(
            f"{len(self.nodes)} servers run: {', '.join(str(node.address) for node in self.nodes)}"
        )
        for number, node in enumerate(self.nodes[:masters]):
            node.call(
                "CLUSTER", "ADDSLOTSRANGE", SLOTS * number // masters, SLOTS * (number + 1) // masters - 1
            )
            node.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.nodes[0].call("CLUSTER", "MEET", node.host, node.port)
        wait_until(
            "every node knows every other",
            lambda: all(int(node.state()["cluster_known_nodes"]) == len(self.nodes) for node in self.nodes),
        )
        for number, node in enumerate(self.nodes[masters:]):
            node.replica_of = self.nodes[number % masters].id
            node.call("CLUSTER", "REPLICATE", node.replica_of)
        self._progress("joined; waiting until it is well")
        self.wait_until_well()

    def wait_until_well(self, seconds: float = 60.0) -> None:
        """Waits until all nodes agree that all slots are served, and replicas follow their masters."""
        wait_until("the cluster is well", self._is_well, seconds)

    def _is_well(self) -> bool:
        try:
            for node in self.running:
                state = node.state()
                if state["cluster_state"] != "ok" or state["cluster_slots_ok"] != str(SLOTS):
                    return False
                if node.role() == "slave" and b"master_link_status:up" not in node.call(
                    "INFO", "replication"
                ):
                    return False
        except (OSError, ReplyError):
            return False
        return self._agree()

    def _agree(self) -> bool:
        """Whether all nodes say the same of who owns which slots, by which configuration epoch."""
        try:
            views = [_owners(node.call("CLUSTER", "NODES").decode()) for node in self.running]
        except (OSError, ReplyError):
            return False
        return all(view == views[0] for view in views)

    def master_of(self, key: str | bytes | int) -> RedisServer:
        """The master of a key's slot, or of a slot, as another node of the cluster sees it."""
        slot = key if isinstance(key, int) else slot_of(key.encode() if isinstance(key, str) else key)
        for node in self.running:
            for first, last, master, *_ in node.call("CLUSTER", "SLOTS"):
                if first <= slot <= last:
                    return self._at(master[0].decode(), master[1])
        raise RuntimeError(f"slot {slot} has no master")

    def _at(self, host: str, port: int) -> RedisServer:
        return next(node for node in self.nodes if node.address == Address(host, port))

    def replica_of(self, master: RedisServer) -> RedisServer:
        """A replica that follows the master now."""
        for node in self.running:
            kind, *followed = node.call("ROLE")
            if kind == b"slave" and Address(followed[0].decode(), followed[1]) == master.address:
                return node
        raise RuntimeError(f"{master.address} has no replica")

    def move_slot(self, slot: int, target: RedisServer, batch: int = 10) -> Iterator[int]:
        """Migrates a slot as redis-cli does, a batch of keys at each step; yields the keys moved so far.

        Between steps clients are answered with ASK and TRYAGAIN. The last step hands the slot over, and
        ends when all nodes know: a next move that the source claims by an epoch which the target has not
        heard of would have it take this slot back, and the target delete the keys.
        """
        source = self.master_of(slot)
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        moved = 0
        password = ["AUTH", self._password] if self._password else []
        while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, batch):
            source.call("MIGRATE", target.host, target.port, "", 0, 5000, *password, "KEYS", *keys)
            moved += len(keys)
            yield moved
        for node in (target, source, *self.masters):
            with contextlib.suppress(ReplyError):
                node.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        wait_until(f"every node knows who has slot {slot}", self._agree)
        yield moved

    def add_master(self) -> RedisServer:
        """Starts a master that all others know, without slots. Raises RuntimeError or TimeoutError."""
        added = self._node(_on_loopback(1)[0])
        self.nodes.append(added)
        added.start()
        known = len(self.running)
        self.nodes[0].call("CLUSTER", "MEET", added.host, added.port)
        wait_until(
            "every node knows the new one",
            lambda: all(int(node.state()["cluster_known_nodes"]) == known for node in self.running),
        )
        self.wait_until_well()
        return added

    def remove_master(self, node: RedisServer) -> None:
        """Ends a master that has no slots any more, and has all others forget it."""
        gone = node.id
        node.kill()
        for other in self.running:
            other.call("CLUSTER", "FORGET", gone)

    def stop(self) -> None:
        for node in self.nodes:
            if node.process and node.process.poll() is None:
                node.process.kill()
        for node in self.nodes:
            node.stop()
        shutil.rmtree(self._directory, ignore_errors=True)


def _on_loopback(count: int) -> list[Place]:
    return [Place("127.0.0.1", port) for port in free_ports(count, bus=True)]


def _owners(nodes: str) -> set[tuple[str, ...]]:
    """Of every node that owns slots: its id, its epoch and the slots, from a reply to CLUSTER NODES.

    Source: https://redis.io/docs/latest/commands/cluster-nodes/
    """
    lines = [line.split() for line in nodes.splitlines()]
    return {
        (node, epoch, *(one for one in slots if not one.startswith("[")))
        for node, _, _, _, _, _, epoch, _, *slots in lines
        if slots
    }
