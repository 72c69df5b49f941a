"""Servers that speak like Redis of subscriptions, for tests of ``proxy.pubsub`` without any I/O."""

from collections import deque
from typing import cast

import hiredis

from proxy.answers import Client
from proxy.pubsub import Hub, Kind, Tally
from proxy.slots import slot_of

A, B, C, SPARE = "10.0.0.1:7000", "10.0.0.2:7000", "10.0.0.3:7000", "10.0.0.4:7000"


def frame(*items: str | bytes | int | None, head: str = "*") -> bytes:
    """A reply of bulk strings and integers; None is RESP2's null."""
    out = b"%b%d\r\n" % (head.encode(), len(items))
    for item in items:
        if item is None:
            out += b"$-1\r\n"
        elif isinstance(item, int):
            out += b":%d\r\n" % item
        else:
            data = item if isinstance(item, bytes) else item.encode()
            out += b"$%d\r\n%b\r\n" % (len(data), data)
    return out


def new_client(number: int, protocol: int = 2) -> Client:
    return Client(number, "127.0.0.1:5555", "127.0.0.1:6379", protocol=protocol)


# --- servers -------------------------------------------------------------------------------------


class Connection:
    def __init__(self) -> None:
        self.open = False
        self.requests: deque[list[bytes]] = deque()
        self.frames: deque[bytes] = deque()
        self.subscribed: dict[tuple[Kind, bytes], None] = {}


class Servers:
    """A cluster as far as subscriptions go, and a hub's connections to it. Each step happens when told to.

    ``masters`` and ``owners`` are the truth; ``known`` is what the hub has been told of it.
    """

    def __init__(self, masters: list[str]) -> None:
        self.masters = list(masters)
        self.alive = {*masters, SPARE}
        self.owners: dict[int, str | None] = {}  # of slots that do not lie where they did at first
        self.known = (list(self.masters), dict(self.owners))
        self.forbidden: set[bytes] = set()
        self.connections: dict[str, Connection] = {}
        self.refreshes: list[str] = []
        self.pushed: list[tuple[int, bytes]] = []
        self.tally = Tally()
        self.hub = Hub(
            send=self.send,
            push=lambda session, data: self.pushed.append((session, data)),
            owner=lambda slot: self.owner(slot, *self.known),
            masters=lambda: list(self.known[0]),
            tally=self.tally,
            slot=lambda _, name: slot_of(name),  # so that there is more than one home
            refresh=self.refreshes.append,
        )

    @staticmethod
    def owner(slot: int, masters: list[str], owners: dict[int, str | None]) -> str | None:
        return owners[slot] if slot in owners else masters[slot % len(masters)] if masters else None

    def home(self, name: bytes) -> str | None:
        return self.owner(slot_of(name), self.masters, self.owners)

    # The hub's side of a connection.

    def send(self, server: str, data: bytes) -> None:
        reader = hiredis.Reader()
        reader.feed(data)
        connection = self.connections.setdefault(server, Connection())
        while (request := reader.gets()) is not False:
            connection.requests.append(cast("list[bytes]", request))

    def dial(self, server: str) -> None:
        if server in self.alive:
            self.connections[server].open = True
            self.hub.opened(server)
        else:
            self.lose(server)

    def lose(self, server: str) -> None:
        del self.connections[server]
        self.hub.lost(server)

    def deliver(self, server: str) -> bytes:
        data = self.connections[server].frames.popleft()
        self.hub.received(server, data)
        return data

    # The server's side.

    def execute(self, server: str) -> None:
        """Carries out the oldest request."""
        connection = self.connections[server]
        word, name = connection.requests.popleft()
        kind = next(kind for kind in Kind if word in (kind.subscribe, kind.unsubscribe))
        home = self.home(name)
        if name in self.forbidden and word == kind.subscribe:
            connection.frames.append(b"-NOPERM no access to that channel\r\n")
        elif kind is Kind.SHARD and home is None:
            connection.frames.append(b"-CLUSTERDOWN Hash slot not served\r\n")
        elif kind is Kind.SHARD and home != server:
            connection.frames.append(b"-MOVED %d %b\r\n" % (slot_of(name), str(home).encode()))
        else:
            if word == kind.subscribe:
                connection.subscribed[kind, name] = None
            else:
                connection.subscribed.pop((kind, name), None)
            connection.frames.append(frame(word, name, len(connection.subscribed)))

    def move(self, slot: int, server: str | None) -> None:
        """A slot gets another owner, or none; its old one ends the subscriptions to its shard channels."""
        old = self.owner(slot, self.masters, self.owners)
        self.owners[slot] = server
        connection = self.connections.get(old or "")
        for kind, name in list(connection.subscribed if connection and old != server else ()):
            if connection and kind is Kind.SHARD and slot_of(name) == slot:
                del connection.subscribed[kind, name]
                connection.frames.append(frame("sunsubscribe", name, 0))

    def learn(self) -> None:
        self.known = (list(self.masters), dict(self.owners))
        self.refreshes.clear()
        self.hub.topology_changed()

    def hit(self, server: str, kind: Kind, channel: bytes, message: bytes) -> list[tuple[Kind, bytes]]:
        """A message reaches the server; returns the names for which it went to the hub."""
        connection = self.connections.get(server)
        found = []
        for has, name in connection.subscribed if connection else ():
            if has is Kind.PATTERN and kind is Kind.CHANNEL:
                assert name.endswith(b"*")
                data = frame("pmessage", name, channel, message) if channel.startswith(name[:-1]) else b""
            else:
                data = frame(kind.message, channel, message) if (has, name) == (kind, channel) else b""
            if connection and data:
                connection.frames.append(data)
                found.append((has, name))
        return found

    # All at once.

    def busy(self) -> list[str]:
        return [
            server
            for server, connection in self.connections.items()
            if not connection.open or connection.requests or connection.frames
        ]

    def step(self, server: str) -> None:
        connection = self.connections[server]
        if not connection.open:
            self.dial(server)
        elif connection.requests:
            self.execute(server)
        elif connection.frames:
            self.deliver(server)

    def run(self) -> None:
        """Lets everything happen that is under way. Servers that are down are dialed a few times only."""
        for _ in range(1000):
            busy = [server for server in self.busy() if server in self.alive]
            if not busy:
                return
            self.step(busy[0])
        raise AssertionError("no end to it")


class Told(list[bytes]):
    """The replies of a session's SUBSCRIBEs, as they come."""


def subscribe(servers: Servers, client: Client, kind: Kind, *names: bytes) -> Told:
    told = Told()
    servers.hub.subscribe(client, kind, list(names), told.append)
    return told


CHANNEL = next(b"c%d" % n for n in range(99) if slot_of(b"c%d" % n) % 3 == 0)  # at home at A
THIRD = next(b"c%d" % n for n in range(99) if slot_of(b"c%d" % n) % 3 == 2)  # at home at C
OTHER = next(b"c%d" % n for n in range(99) if slot_of(b"c%d" % n) % 3 == 1)  # at home at B
EVENTS = b"__keyevent@0__:*"
