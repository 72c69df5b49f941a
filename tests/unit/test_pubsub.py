"""Subscriptions: what sessions receive and are told while servers come, go and change their slots."""

import shutil
import socket
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lab.redis_cluster import RedisServer
from proxy.answers import HANDLERS, Client, Context
from proxy.answers.subscriptions import subscribed_ping
from proxy.fanout import Answer, Fanout, PartReply, Pending
from proxy.glob import matches
from proxy.pubsub import MOST_REDIRECTIONS, PUBSUB_SLOT, Hub, Kind, Tally
from proxy.resp import ReplyScanner
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


@pytest.fixture
def servers() -> Servers:
    return Servers([A, B, C])


CHANNEL = next(b"c%d" % n for n in range(99) if slot_of(b"c%d" % n) % 3 == 0)  # at home at A
THIRD = next(b"c%d" % n for n in range(99) if slot_of(b"c%d" % n) % 3 == 2)  # at home at C
OTHER = next(b"c%d" % n for n in range(99) if slot_of(b"c%d" % n) % 3 == 1)  # at home at B
EVENTS = b"__keyevent@0__:*"


# --- one rule at a time ----------------------------------------------------------------------------


def test_one_subscription_serves_all_sessions_each_in_its_protocol(servers: Servers) -> None:
    old, new = new_client(1, 2), new_client(2, 3)
    assert subscribe(servers, old, Kind.CHANNEL, CHANNEL) == []
    assert old.subscriptions == 1
    told = subscribe(servers, new, Kind.CHANNEL, CHANNEL)
    assert list(servers.connections) == [A]
    assert len(servers.connections[A].requests) == 1
    servers.run()
    assert told == [frame("subscribe", CHANNEL, 1, head=">")]
    servers.hit(A, Kind.CHANNEL, CHANNEL, b"one\r\n")
    servers.run()
    assert servers.pushed == [
        (1, frame("message", CHANNEL, b"one\r\n")),
        (2, frame("message", CHANNEL, b"one\r\n", head=">")),
    ]
    old.protocol = 3
    servers.hit(A, Kind.CHANNEL, CHANNEL, b"two")
    servers.run()
    assert servers.pushed[2:] == [(n, frame("message", CHANNEL, b"two", head=">")) for n in (1, 2)]
    assert servers.hub.unsubscribe(old, Kind.CHANNEL, [CHANNEL]) == frame("unsubscribe", CHANNEL, 0, head=">")
    assert not servers.busy()
    servers.hub.forget(2)
    assert (old.subscriptions, new.subscriptions) == (0, 0)
    servers.run()
    assert not servers.connections[A].subscribed


def test_a_reply_waits_for_the_slowest_server_and_messages_for_the_reply(servers: Servers) -> None:
    client = new_client(1)
    told = subscribe(servers, client, Kind.CHANNEL, CHANNEL, OTHER)
    for _ in range(3):
        servers.step(A)
    servers.hit(A, Kind.CHANNEL, CHANNEL, b"early")
    servers.deliver(A)
    assert (told, servers.pushed) == ([], [])
    servers.run()
    assert told == [frame("subscribe", CHANNEL, 1) + frame("subscribe", OTHER, 2)]
    assert servers.pushed == []


def test_who_leaves_while_it_waits_is_still_told(servers: Servers) -> None:
    client = new_client(1)
    told = subscribe(servers, client, Kind.CHANNEL, CHANNEL)
    assert servers.hub.unsubscribe(client, Kind.CHANNEL, []) == frame("unsubscribe", CHANNEL, 0)
    assert told == [frame("subscribe", CHANNEL, 1)]
    assert servers.hub.unsubscribe(client, Kind.CHANNEL, []) == frame("unsubscribe", None, 0)
    # A second subscription is not confirmed by what the first one's server says.
    told = subscribe(servers, client, Kind.CHANNEL, CHANNEL)
    servers.step(A)
    for _ in range(3):
        servers.execute(A)
    servers.deliver(A)
    servers.deliver(A)
    assert told == []
    servers.deliver(A)
    assert told == [frame("subscribe", CHANNEL, 1)]


@pytest.mark.parametrize("refused", [False, True])
def test_a_reply_concerns_what_its_own_command_subscribed_to(servers: Servers, refused: bool) -> None:
    client = new_client(1)
    subscribe(servers, new_client(2), Kind.CHANNEL, CHANNEL)
    servers.run()
    servers.forbidden = {OTHER} if refused else set()
    first = subscribe(servers, client, Kind.CHANNEL, CHANNEL, OTHER)
    servers.hub.unsubscribe(client, Kind.CHANNEL, [CHANNEL])
    second = subscribe(servers, client, Kind.CHANNEL, CHANNEL, THIRD)
    for _ in range(3):
        servers.step(B)
    assert first == [
        b"-NOPERM no access to that channel\r\n"
        if refused
        else frame("subscribe", CHANNEL, 1) + frame("subscribe", OTHER, 2)
    ]
    servers.hit(A, Kind.CHANNEL, CHANNEL, b"x")
    servers.deliver(A)
    assert [session for session, _ in servers.pushed] == [2]  # the other one's command is not answered yet
    servers.run()
    assert second == [frame("subscribe", CHANNEL, 2) + frame("subscribe", THIRD, 3)]
    assert client.subscriptions == (2 if refused else 3)


def test_who_is_forgotten_is_told_nothing(servers: Servers) -> None:
    client = new_client(1)
    told = subscribe(servers, client, Kind.CHANNEL, CHANNEL, OTHER)
    subscribe(servers, new_client(2), Kind.CHANNEL, CHANNEL)
    servers.hub.forget(1)
    assert len(servers.hub._named[b"message"][CHANNEL].waits) == 1
    servers.hub.forget(2)
    servers.run()
    assert told == []
    assert client.subscriptions == 0
    assert not any(connection.subscribed for connection in servers.connections.values())
    assert subscribe(servers, client, Kind.CHANNEL, CHANNEL) == []


def test_a_home_that_broke_off_is_tried_again_and_then_passed_over(servers: Servers) -> None:
    client = new_client(1)
    subscribe(servers, client, Kind.CHANNEL, CHANNEL)
    servers.run()
    servers.lose(A)
    assert list(servers.connections) == [A]
    servers.alive.discard(A)
    servers.step(A)  # the dial fails
    (elsewhere,) = servers.connections
    assert elsewhere in (B, C)
    servers.run()
    servers.hit(elsewhere, Kind.CHANNEL, CHANNEL, b"x")
    servers.run()
    assert servers.pushed == [(1, frame("message", CHANNEL, b"x"))]
    # Others do not wait for the home, and it is tried again without giving up what is had.
    servers.learn()
    assert subscribe(servers, new_client(2), Kind.CHANNEL, CHANNEL) == [frame("subscribe", CHANNEL, 1)]
    servers.hub.forget(2)
    assert subscribe(servers, new_client(2), Kind.PATTERN, CHANNEL) == []
    servers.run()
    servers.hub.forget(2)
    assert len(servers.connections[elsewhere].subscribed) == 2
    servers.run()
    servers.step(A)
    # Home again, without a gap: the stand-in is left last.
    servers.alive.add(A)
    servers.learn()
    assert list(servers.connections[elsewhere].requests) == []
    servers.hit(elsewhere, Kind.CHANNEL, CHANNEL, b"y")
    servers.deliver(elsewhere)
    assert servers.pushed[1:] == [(1, frame("message", CHANNEL, b"y"))]
    for _ in range(3):
        servers.step(A)
    for server in (A, elsewhere):  # which has not heard yet that it is left
        servers.hit(server, Kind.CHANNEL, CHANNEL, b"z")
        servers.deliver(server)
    assert servers.pushed[2:] == [(1, frame("message", CHANNEL, b"z"))]
    servers.run()
    assert list(servers.connections[A].subscribed) == [(Kind.CHANNEL, CHANNEL)]
    assert not servers.connections[elsewhere].subscribed


def test_a_stand_in_that_serves_is_kept(servers: Servers) -> None:
    servers.alive.discard(A)
    servers.owners[slot_of(CHANNEL)] = A
    servers.learn()
    subscribe(servers, new_client(1), Kind.CHANNEL, CHANNEL)
    servers.step(A)
    servers.run()
    (stand_in,) = servers.connections
    servers.masters.insert(1, SPARE)
    servers.learn()
    servers.step(A)
    assert list(servers.connections) == [stand_in]
    assert not servers.busy()
    # Until it is a master no more.
    servers.masters.remove(stand_in)
    servers.learn()
    servers.step(A)
    servers.run()
    (server,) = [server for server, c in servers.connections.items() if c.subscribed]
    assert server in {B, C, SPARE} - {stand_in}


def test_a_home_that_opens_for_another_name_gets_back_all_of_its_own(servers: Servers) -> None:
    servers.alive.discard(A)
    subscribe(servers, new_client(1), Kind.CHANNEL, CHANNEL)
    subscribe(servers, new_client(1), Kind.SHARD, CHANNEL)
    servers.step(A)
    servers.run()
    servers.alive.add(A)
    servers.run()
    assert set(servers.connections[A].subscribed) == {(Kind.SHARD, CHANNEL), (Kind.CHANNEL, CHANNEL)}


def test_a_server_that_is_a_master_again_is_tried_again(servers: Servers) -> None:
    servers.hub.lost(A)
    for masters in ([B, C, SPARE], [A, B, C]):
        servers.masters = masters
        servers.learn()
    subscribe(servers, new_client(1), Kind.CHANNEL, CHANNEL)
    assert list(servers.connections) == [A]


def test_when_all_are_down_all_are_tried_in_turn(servers: Servers) -> None:
    servers.alive = set()
    told = subscribe(servers, new_client(1), Kind.CHANNEL, CHANNEL)
    tried = []
    for _ in range(12):
        (server,) = servers.connections
        tried.append(server)
        servers.step(server)
    assert set(tried) == {A, B, C}
    servers.alive = {B}
    for _ in range(6):
        if told:
            break
        for server in list(servers.connections):
            servers.step(server)
        servers.run()
    assert told == [frame("subscribe", CHANNEL, 1)]


def test_a_shard_channel_goes_where_its_slot_goes(servers: Servers) -> None:
    client = new_client(1)
    subscribe(servers, client, Kind.SHARD, CHANNEL)
    servers.run()
    servers.move(slot_of(CHANNEL), B)
    servers.run()  # sunsubscribe, asked again at A, MOVED to B
    assert list(servers.connections[B].subscribed) == [(Kind.SHARD, CHANNEL)]
    assert servers.refreshes == ["sunsubscribe", "MOVED"]
    servers.hit(B, Kind.SHARD, CHANNEL, b"x")
    servers.run()
    assert servers.pushed == [(1, frame("smessage", CHANNEL, b"x"))]
    for server in [C, B] * MOST_REDIRECTIONS:
        servers.move(slot_of(CHANNEL), server)
        servers.run()
        assert [at for at, c in servers.connections.items() if c.subscribed] == [server]
    servers.move(slot_of(CHANNEL), C)
    servers.learn()
    servers.run()
    assert [at for at, c in servers.connections.items() if c.subscribed] == [C]


def test_a_shard_channel_follows_a_topology_that_only_we_were_told_of(servers: Servers) -> None:
    subscribe(servers, new_client(1), Kind.SHARD, CHANNEL)
    servers.run()
    servers.owners[slot_of(CHANNEL)] = B  # as after a failover: the old master keeps its subscribers
    servers.learn()
    told = subscribe(servers, new_client(2), Kind.SHARD, CHANNEL)
    assert told == []  # the old one has no more messages
    servers.run()
    assert told == [frame("ssubscribe", CHANNEL, 1)]
    assert list(servers.connections[B].subscribed) == [(Kind.SHARD, CHANNEL)]


def test_what_was_asked_before_a_name_moved_away_and_back_confirms_nothing(servers: Servers) -> None:
    told = subscribe(servers, new_client(1), Kind.SHARD, CHANNEL)
    for server in (B, A):
        servers.owners[slot_of(CHANNEL)] = server
        servers.learn()
    servers.dial(A)
    for _ in range(3):
        assert told == []
        servers.execute(A)
        servers.deliver(A)
    assert told == [frame("ssubscribe", CHANNEL, 1)]


def test_a_name_that_moves_twice_is_still_had_from_one_place(servers: Servers) -> None:
    subscribe(servers, new_client(1), Kind.CHANNEL, CHANNEL)
    servers.run()
    for server in (B, C):
        servers.masters, servers.owners = [server], {}
        servers.learn()
    for _ in range(3):
        servers.step(B)
    for server in (A, B):
        servers.hit(server, Kind.CHANNEL, CHANNEL, b"x")
    servers.deliver(B)
    servers.deliver(A)
    assert servers.pushed == [(1, frame("message", CHANNEL, b"x"))]
    servers.run()
    assert [server for server, c in servers.connections.items() if c.subscribed] == [C]


def test_an_old_home_that_is_asked_again_is_silent_until_it_confirms(servers: Servers) -> None:
    subscribe(servers, new_client(1), Kind.CHANNEL, CHANNEL)
    servers.run()
    for server in (B, A):
        servers.masters = [server]
        servers.learn()
        for _ in range(3 if server is B else 0):
            servers.step(B)
    for server in (A, B):  # A has not been told yet that it was left, nor that it is asked again
        servers.hit(server, Kind.CHANNEL, CHANNEL, b"x")
        servers.deliver(server)
    assert servers.pushed == [(1, frame("message", CHANNEL, b"x"))]
    servers.run()
    assert [server for server, c in servers.connections.items() if c.subscribed] == [A]


@pytest.mark.parametrize("kind", Kind)
def test_before_any_topology_is_known_names_wait(servers: Servers, kind: Kind) -> None:
    servers.known = ([], {})
    told = subscribe(servers, new_client(1), kind, EVENTS)
    servers.hub.topology_changed()
    assert servers.connections == {}
    servers.learn()
    servers.run()
    assert told == [frame(kind.subscribe, EVENTS, 1)]


def test_a_shard_channel_without_a_home_waits_for_one(servers: Servers) -> None:
    servers.move(slot_of(CHANNEL), None)
    told = subscribe(servers, new_client(1), Kind.SHARD, CHANNEL)
    servers.run()
    assert servers.refreshes == ["CLUSTERDOWN"]
    servers.learn()
    assert not servers.busy()
    servers.move(slot_of(CHANNEL), B)
    servers.learn()
    servers.run()
    assert told == [frame("ssubscribe", CHANNEL, 1)]


def test_servers_that_send_each_other_round_are_not_followed_for_ever(servers: Servers) -> None:
    told = subscribe(servers, new_client(1), Kind.SHARD, CHANNEL)
    asked = 0
    while servers.connections:
        ((server, _),) = servers.connections.items()
        asked += 1
        there = {A: B, B: A}[server]
        servers.connections.clear()
        servers.hub.received(server, b"-MOVED %d %b\r\n" % (slot_of(CHANNEL), there.encode()))
    assert asked == MOST_REDIRECTIONS + 1
    servers.learn()
    servers.connections.clear()
    servers.hub.received(A, b"-MOVED %d %b\r\n" % (slot_of(CHANNEL), B.encode()))
    assert list(servers.connections) == [B]
    servers.move(slot_of(CHANNEL), B)
    servers.run()
    assert told == [frame("ssubscribe", CHANNEL, 1)]


@pytest.mark.parametrize(("there", "server"), [(b":7001", "10.0.0.1:7001"), (b"::1:7", "[::1]:7")])
def test_a_redirection_names_its_server_as_servers_do(servers: Servers, there: bytes, server: str) -> None:
    subscribe(servers, new_client(1), Kind.SHARD, CHANNEL)
    servers.hub.received(A, b"-MOVED %d %b\r\n" % (slot_of(CHANNEL), there))
    assert list(servers.connections) == [A, server]


def test_a_sunsubscribe_taken_for_a_confirmation_leaves_no_error_to_others(servers: Servers) -> None:
    client = new_client(1)
    subscribe(servers, client, Kind.SHARD, CHANNEL)
    servers.run()
    servers.hub.unsubscribe(client, Kind.SHARD, [CHANNEL])
    told = subscribe(servers, client, Kind.CHANNEL, CHANNEL)
    servers.move(slot_of(CHANNEL), B)
    servers.run()  # sunsubscribe for the slot, MOVED for SUNSUBSCRIBE, then the channel
    assert told == [frame("subscribe", CHANNEL, 1)]
    assert list(servers.connections) == [A]


def test_a_refusal_is_the_reply_and_undoes_the_rest_of_it(servers: Servers) -> None:
    first, second = new_client(1), new_client(2)
    subscribe(servers, first, Kind.CHANNEL, OTHER)
    servers.run()
    servers.forbidden.add(CHANNEL)
    told = subscribe(servers, first, Kind.CHANNEL, OTHER, CHANNEL, b"third")
    also = subscribe(servers, second, Kind.CHANNEL, CHANNEL)
    servers.run()
    refusal = b"-NOPERM no access to that channel\r\n"
    assert (told, also) == ([refusal], [refusal])
    assert (first.subscriptions, second.subscriptions) == (1, 0)
    assert [name for c in servers.connections.values() for name in c.subscribed] == [(Kind.CHANNEL, OTHER)]


def test_who_had_what_is_refused_later_is_told_that_it_ended(servers: Servers) -> None:
    clients = new_client(1, 2), new_client(2, 3)
    for client in clients:
        subscribe(servers, client, Kind.PATTERN, CHANNEL)
        subscribe(servers, client, Kind.CHANNEL, CHANNEL)
    servers.run()
    servers.forbidden.add(CHANNEL)
    servers.lose(A)
    servers.run()
    assert sorted(servers.pushed) == sorted(
        (client.id, frame(word, CHANNEL, count, head="*" if client.protocol == 2 else ">"))
        for client in clients
        for word, count in (("unsubscribe", 1), ("punsubscribe", 0))
    )
    assert [client.subscriptions for client in clients] == [0, 0]


def test_a_refusal_of_what_was_live_fails_those_who_still_wait_for_something_else(servers: Servers) -> None:
    subscribe(servers, new_client(1), Kind.CHANNEL, CHANNEL)
    servers.run()
    told = subscribe(servers, new_client(2), Kind.CHANNEL, CHANNEL, OTHER)
    servers.forbidden = {CHANNEL}
    servers.lose(A)
    for _ in range(3):
        servers.step(A)
    assert told == [b"-NOPERM no access to that channel\r\n"]
    assert servers.pushed == [(1, frame("unsubscribe", CHANNEL, 0))]


def test_notifications_are_had_of_every_master(servers: Servers) -> None:
    client = new_client(1)
    told = subscribe(servers, client, Kind.PATTERN, EVENTS)
    for _ in range(3):
        servers.step(A)
    assert told == []
    servers.run()
    assert told == [frame("psubscribe", EVENTS, 1)]
    for server in (A, B, C):
        servers.hit(server, Kind.CHANNEL, b"__keyevent@0__:del", server.encode())
    servers.run()
    assert len(servers.pushed) == 3
    servers.masters = [A, B, SPARE]
    servers.learn()
    servers.run()
    assert [s for s, c in servers.connections.items() if c.subscribed] == [A, B, SPARE]
    # One that can't be reached holds nobody up.
    servers.alive.discard(B)
    servers.lose(B)
    told = subscribe(servers, new_client(2), Kind.PATTERN, EVENTS)
    assert told == []
    servers.step(B)
    assert told == [frame("psubscribe", EVENTS, 1)]


def test_what_was_not_asked_for_is_passed_over(servers: Servers) -> None:
    for data in (b"+PONG\r\n", frame("pong", ""), b"-ERR what\r\n", frame("message", "x", "y")):
        servers.hub.received(A, data)
    servers.hub.received(A, frame("unsubscribe", None, 0))
    servers.hub.received(A, frame("sunsubscribe", CHANNEL, 0))
    servers.hub.lost(A)
    servers.hub.opened(A)
    servers.hub.forget(17)
    assert (servers.pushed, servers.connections) == ([], {})
    subscribe(servers, new_client(1), Kind.SHARD, CHANNEL)
    for nonsense in (
        b"*0\r\n",
        b"*1\r\n$1\r\nx\r\n",
        b"-MOVED 1\r\n",
        b"-MOVED %d x:y\r\n" % slot_of(CHANNEL),
    ):
        with pytest.raises(ValueError, match=r"not found|int|unpack"):
            servers.hub.received(A, nonsense)


def test_a_session_may_end_while_a_message_is_passed_on(servers: Servers) -> None:
    for number in (1, 2, 3):
        subscribe(servers, new_client(number), Kind.CHANNEL, CHANNEL)
    servers.run()
    servers.hub._push = lambda session, _: servers.hub.forget(session)
    servers.hit(A, Kind.CHANNEL, CHANNEL, b"x")
    servers.run()
    assert not servers.connections[A].subscribed


def test_a_wait_of_before_a_reset_is_not_told(servers: Servers) -> None:
    second = new_client(2)
    again = Told()

    def reset(_: bytes) -> None:
        servers.hub.forget(2)
        servers.hub.subscribe(second, Kind.CHANNEL, [CHANNEL], again.append)

    servers.hub.subscribe(new_client(1), Kind.CHANNEL, [CHANNEL], reset)
    told = subscribe(servers, second, Kind.CHANNEL, CHANNEL)
    servers.run()
    assert (told, again) == ([], [frame("subscribe", CHANNEL, 1)])


# --- any order of events ---------------------------------------------------------------------------

NAMES = {
    Kind.CHANNEL: [b"a", b"ab", b"b", b"__keyspace@0__:k"],
    Kind.PATTERN: [b"a*", b"*", b"__key*"],
    Kind.SHARD: [b"a", b"b", b"c"],
}
FORBIDDABLE = [b"b", b"a*"]
SLOTS = sorted({slot_of(name) for names in NAMES.values() for name in names})
MASTERS = [A, B, C]
SERVERS = [*MASTERS, SPARE]
Name = tuple[Kind, bytes]


class Token:
    """One subscription of one session, from its SUBSCRIBE on."""

    confirmed = False


@settings(deadline=None, max_examples=150, stateful_step_count=60)
class Sessions(RuleBasedStateMachine):
    """Sessions, servers and what happens to both, in any order.

    A message counts as passed on exactly when one server sent it. What is excused: messages under way
    on an old home while the new one confirms, those two homes sent, those of a home whose confirmation is
    under way itself, and what a connection took with it.
    """

    @initialize(protocols=st.lists(st.sampled_from([2, 3]), min_size=3, max_size=3))
    def begin(self, protocols: list[int]) -> None:
        self.servers = Servers(MASTERS)
        self.clients = [new_client(n, protocol) for n, protocol in enumerate(protocols)]
        self.tokens: dict[tuple[int, Kind, bytes], Token] = {}
        self.owed: list[list[object]] = []  # replies that are still to come
        self.sent = 0
        self.expected: dict[tuple[Name, int], dict[int, Token]] = {}  # who listened when it was sent
        self.excused: set[tuple[Name, int]] = set()
        self.seen: set[tuple[int, Name, int]] = set()
        self.last: dict[tuple[int, Name, str], int] = {}

    def count(self, session: int, kind: Kind) -> int:
        alike = [Kind.SHARD] if kind is Kind.SHARD else [Kind.CHANNEL, Kind.PATTERN]
        return sum(owner == session and has in alike for owner, has, _ in self.tokens)

    def confirmation(self, session: int, word: bytes, name: bytes | None, count: int) -> bytes:
        if self.clients[session].protocol == 2:
            return frame(word, name, count)
        return frame(word, name, count, head=">").replace(b"$-1\r\n", b"_\r\n")

    # Sessions.

    @rule(session=st.integers(0, 2), kind=st.sampled_from(Kind), data=st.data())
    def subscribe(self, session: int, kind: Kind, data: st.DataObject) -> None:
        names = data.draw(st.lists(st.sampled_from(NAMES[kind]), min_size=1, max_size=3))
        added: list[tuple[tuple[int, Kind, bytes], Token]] = []
        replies = b""
        for name in names:
            key = (session, kind, name)
            if key not in self.tokens:
                self.tokens[key] = Token()
                added.append((key, self.tokens[key]))
            replies += self.confirmation(session, kind.subscribe, name, self.count(session, kind))
        owed: list[object] = [session]
        self.owed.append(owed)

        def complete(reply: bytes) -> None:
            assert owed in self.owed, "told twice, or after it was forgotten"
            self.owed = [other for other in self.owed if other is not owed]
            if reply.startswith(b"-NOPERM"):
                for key, token in added:
                    if self.tokens.get(key) is token:
                        del self.tokens[key]
                return
            assert reply == replies
            for _, token in added:
                token.confirmed = True

        self.servers.hub.subscribe(self.clients[session], kind, names, complete)

    @rule(session=st.integers(0, 2), kind=st.sampled_from(Kind), data=st.data())
    def unsubscribe(self, session: int, kind: Kind, data: st.DataObject) -> None:
        names = data.draw(st.lists(st.sampled_from(NAMES[kind]), max_size=2))
        reply = self.servers.hub.unsubscribe(self.clients[session], kind, names)
        own = [name for owner, has, name in self.tokens if (owner, has) == (session, kind)]
        expected = b""
        for name in names or own:
            self.tokens.pop((session, kind, name), None)
            expected += self.confirmation(session, kind.unsubscribe, name, self.count(session, kind))
        if not expected:
            expected = self.confirmation(session, kind.unsubscribe, None, self.count(session, kind))
        assert reply == expected

    @rule(session=st.integers(0, 2))
    def forget(self, session: int) -> None:
        self.tokens = {key: token for key, token in self.tokens.items() if key[0] != session}
        self.owed = [owed for owed in self.owed if owed[0] != session]
        self.servers.hub.forget(session)

    @rule(session=st.integers(0, 2), protocol=st.sampled_from([2, 3]))
    def hello(self, session: int, protocol: int) -> None:
        self.clients[session].protocol = protocol

    # Messages.

    @rule(channel=st.sampled_from([b"a", b"ab", b"b", b"x"]))
    def publish(self, channel: bytes) -> None:
        self.send(SERVERS, Kind.CHANNEL, channel)

    @rule(server=st.sampled_from(SERVERS))
    def notify(self, server: str) -> None:
        if server in self.servers.masters and server in self.servers.known[0]:
            self.send([server], Kind.CHANNEL, b"__keyspace@0__:k")

    @rule(channel=st.sampled_from([b"a", b"b", b"c"]))
    def spublish(self, channel: bytes) -> None:
        self.send([self.servers.home(channel) or ""], Kind.SHARD, channel)

    def send(self, at: list[str], kind: Kind, channel: bytes) -> None:
        self.sent += 1
        for server in at:
            for name in self.servers.hit(server, kind, channel, b"%d" % self.sent):
                message = (name, self.sent)
                frames = self.servers.connections[server].frames
                if message in self.expected or any(self.parse(data) == (name, None) for data in frames):
                    self.excused.add(message)
                self.expected[message] = {
                    session: token
                    for (session, *of), token in self.tokens.items()
                    if tuple(of) == name and token.confirmed
                }

    # Connections, one step at a time.

    @precondition(lambda self: self.servers.busy())
    @rule(data=st.data(), steps=st.integers(1, 8))
    def steps(self, data: st.DataObject, steps: int) -> None:
        for _ in range(steps):
            if busy := self.servers.busy():
                self.step(data.draw(st.sampled_from(busy)), data.draw(st.booleans()))

    def step(self, server: str, reply_first: bool = True) -> None:
        connection = self.servers.connections[server]
        if connection.open and connection.frames and (reply_first or not connection.requests):
            self.deliver(server)
        elif not connection.open or connection.requests:
            self.servers.step(server)

    def deliver(self, server: str) -> None:
        data = self.servers.connections[server].frames[0]
        name, number = self.parse(data)
        if data.startswith(b"*") and number is None:
            self.excuse(lambda at, other: other == name and at != server)  # of an old home
        listening = {
            session: token
            for (session, *of), token in self.tokens.items()
            if tuple(of) == name and token.confirmed
        }
        self.servers.pushed.clear()
        self.servers.deliver(server)
        got = []
        for session, pushed in self.servers.pushed:
            if number is None:
                self.ended(session, pushed)
                continue
            assert name is not None
            assert session in listening, "a message for who does not listen"
            assert pushed == (data if self.clients[session].protocol == 2 else b">" + data[1:])
            got.append(session)
            if (name, number) not in self.excused:
                assert (session, name, number) not in self.seen, "twice"
                home = server if name[1].startswith(b"__key") else ""
                assert number > self.last.get((session, name, home), 0), "out of order"
                self.last[session, name, home] = number
            self.seen.add((session, name, number))
        if number is not None and name is not None and (name, number) not in self.excused:
            for session, token in self.expected[name, number].items():
                assert listening.get(session) is not token or session in got, "lost"

    def ended(self, session: int, pushed: bytes) -> None:
        """A session is told that a server does not let it have a name any longer."""
        reader = hiredis.Reader()
        reader.feed(pushed)
        word, name, count = cast("list[Any]", reader.gets())
        kind = next(kind for kind in Kind if kind.unsubscribe == word)
        assert name in FORBIDDABLE
        assert self.tokens.pop((session, kind, name)).confirmed
        assert pushed == self.confirmation(session, word, name, count)

    @staticmethod
    def parse(data: bytes) -> tuple[Name | None, int | None]:
        """The name a frame is about, and the number of the message if it is one."""
        if not data.startswith(b"*"):
            return None, None
        reader = hiredis.Reader()
        reader.feed(data)
        word, name, *rest = cast("list[Any]", reader.gets())
        for kind in Kind:
            if word == kind.message:
                return (kind, name), int(rest[-1])
            if word in (kind.subscribe, kind.unsubscribe):
                return (kind, name), None
        raise AssertionError(word)

    def excuse(self, which: Callable[[str, Name], bool]) -> None:
        for server, connection in self.servers.connections.items():
            for data in connection.frames:
                name, number = self.parse(data)
                if name is not None and number is not None and which(server, name):
                    self.excused.add((name, number))

    # What happens to servers.

    @rule(server=st.sampled_from(SERVERS))
    def break_off(self, server: str) -> None:
        if server in self.servers.connections:
            self.servers.lose(server)

    @rule(server=st.sampled_from(SERVERS))
    def die(self, server: str) -> None:
        self.servers.alive.discard(server)
        if server in self.servers.connections:
            self.servers.lose(server)

    @rule(server=st.sampled_from(SERVERS))
    def come_back(self, server: str) -> None:
        self.servers.alive.add(server)

    @rule(slot=st.sampled_from(SLOTS), server=st.sampled_from([*SERVERS, None]))
    def reshard(self, slot: int, server: str | None) -> None:
        if server is None or server in self.servers.masters:
            self.servers.move(slot, server)

    @rule(place=st.integers(0, 2))
    def fail_over(self, place: int) -> None:
        """A replica takes a master's place; the master, if it lives, goes on as a replica."""
        (spare,) = set(SERVERS) - set(self.servers.masters)
        old = self.servers.masters[place]
        for slot in SLOTS:
            if self.servers.owner(slot, self.servers.masters, self.servers.owners) == old:
                self.servers.move(slot, spare)
        self.servers.masters[place] = spare

    @rule()
    def learn(self) -> None:
        gone = set(SERVERS) - set(self.servers.masters)
        self.excuse(lambda server, name: name[1].startswith(b"__key") and server in gone)
        self.servers.learn()

    @rule(name=st.sampled_from(FORBIDDABLE))
    def forbid(self, name: bytes) -> None:
        self.servers.forbidden.symmetric_difference_update([name])

    @rule()
    def heal(self) -> None:
        """In a cluster that is well, everyone comes to have what it asked for."""
        servers = self.servers
        servers.alive = set(SERVERS)
        servers.forbidden.clear()
        for slot in SLOTS:
            if servers.owner(slot, servers.masters, servers.owners) not in servers.masters:
                servers.move(slot, servers.masters[0])
        self.quiet()
        self.learn()
        while servers.busy() or servers.refreshes:
            self.quiet()
            if servers.refreshes:
                self.learn()
        assert self.owed == []
        assert all(token.confirmed for token in self.tokens.values())
        wanted = {(kind, name) for _, kind, name in self.tokens}
        for kind, name in wanted:
            at = [server for server, c in servers.connections.items() if (kind, name) in c.subscribed]
            if name.startswith(b"__key") or (kind is Kind.PATTERN and name.startswith(b"*")):
                assert sorted(at) == sorted(servers.masters)
            else:
                assert len(at) == 1
                assert at == [servers.home(name)] if kind is Kind.SHARD else at[0] in servers.masters
        assert {name for c in servers.connections.values() for name in c.subscribed} == wanted
        self.counts()

    def quiet(self) -> None:
        for _ in range(1000):
            if not self.servers.busy():
                return
            self.step(self.servers.busy()[0])
        raise AssertionError("no end to it")

    def counts(self) -> None:
        """PUBLISH tells how many sessions received the message, wherever its channel and patterns are."""
        for channel in (b"a", b"ab", b"x"):
            server = self.servers.home(channel) or ""
            before = self.sent
            settled = not any(self.servers.hub._asked.values())  # no hub that the server may count or not
            self.send(SERVERS, Kind.CHANNEL, channel)
            connection = self.servers.connections.get(server)
            counted = sum(self.parse(data)[1] == self.sent for data in connection.frames) if connection else 0
            self.quiet()
            got = sum(number == self.sent for _, _, number in self.seen)
            if settled:
                assert self.servers.tally.receivers(channel, server, counted + 7) == got + 7
            assert self.sent == before + 1

    @invariant()
    def consistent(self) -> None:
        for session, client in enumerate(getattr(self, "clients", [])):
            assert client.subscriptions == sum(owner == session for owner, *_ in self.tokens)
        if hasattr(self, "tokens") and not self.tokens:
            assert not self.servers.hub._sessions or self.owed
            assert not any(self.servers.hub._named.values())
            if not any(self.servers.hub._asked.values()):
                assert not self.servers.tally, "what is left has been confirmed"


TestSessions = Sessions.TestCase


# --- receivers -------------------------------------------------------------------------------------


def test_receivers_are_this_process_sessions_and_those_of_others() -> None:
    tally = Tally()
    assert not tally
    assert tally.receivers(b"c", A, 2) == 2
    for _ in range(2):  # two workers at A, and one elsewhere
        tally.hubs(Kind.CHANNEL, b"c", A, 1)
    tally.hubs(Kind.CHANNEL, b"c", B, 1)
    tally.sessions(Kind.CHANNEL, b"c", 10)
    tally.hubs(Kind.PATTERN, b"C*", A, 1)  # does not match
    tally.sessions(Kind.PATTERN, b"C*", 100)
    tally.hubs(Kind.PATTERN, b"[c]*", B, 1)
    tally.sessions(Kind.PATTERN, b"[c]*", 20)
    tally.sessions(Kind.SHARD, b"c", 5)
    assert tally
    assert tally.receivers(b"c", A, 3) == 3 - 2 + 10 + 20
    assert tally.receivers(b"c", B, 2) == 2 - 2 + 10 + 20
    assert tally.receivers(b"c", A, 1, Kind.SHARD) == 6
    assert tally.surplus(Kind.CHANNEL, b"c", [A, B, C]) == 7
    assert tally.receivers(b"d", A, 0) == 0
    tally.hubs(Kind.CHANNEL, b"d", A, 1)
    assert tally.receivers(b"d", A, 0) == 0  # it was subscribed since


# --- handlers --------------------------------------------------------------------------------------


def ask(servers: Servers, client: Client, *args: bytes) -> Answer:
    context = cast("Context", SimpleNamespace(hub=servers.hub))
    arity, handler = HANDLERS[args[0].lower()]
    assert arity == len(args) or -arity <= len(args)
    return handler(client, context, list(args))


@pytest.mark.parametrize("kind", Kind)
def test_commands_subscribe_and_unsubscribe(servers: Servers, kind: Kind) -> None:
    client = new_client(1)
    pending = ask(servers, client, kind.subscribe.upper(), b"{x}a", b"{x}b")
    assert isinstance(pending, Pending)
    told = Told()
    pending.start(told.append)
    servers.run()
    assert told == [frame(kind.subscribe, "{x}a", 1) + frame(kind.subscribe, "{x}b", 2)]
    assert ask(servers, client, kind.unsubscribe, b"{x}b") == frame(kind.unsubscribe, "{x}b", 1)
    assert ask(servers, client, kind.unsubscribe) == frame(kind.unsubscribe, "{x}a", 0)
    assert ask(servers, client, kind.unsubscribe) == frame(kind.unsubscribe, None, 0)


def test_shard_channels_of_one_command_share_a_slot(servers: Servers) -> None:
    answer = ask(servers, new_client(1), b"SSUBSCRIBE", b"a", b"b")
    assert answer == b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"


def test_publish_counts_sessions(servers: Servers) -> None:
    answer = ask(servers, new_client(1), b"PUBLISH", CHANNEL, b"x")
    assert isinstance(answer, Fanout)
    ((slot, request),) = answer.parts
    assert (slot, request) == (PUBSUB_SLOT, frame("PUBLISH", CHANNEL, "x"))
    assert answer.merge([PartReply(A, b":4\r\n")]) == b":4\r\n"
    for number in (1, 2, 3):
        subscribe(servers, new_client(number), Kind.CHANNEL, CHANNEL)
        subscribe(servers, new_client(number), Kind.SHARD, CHANNEL)
    subscribe(servers, new_client(4), Kind.SHARD, CHANNEL)
    servers.run()
    assert answer.merge([PartReply(A, b":2\r\n")]) == b":4\r\n"
    assert answer.merge([PartReply("", b"-ERR x\r\n")]) == b"-ERR x\r\n"
    sharded = ask(servers, new_client(1), b"SPUBLISH", CHANNEL, b"x")
    assert isinstance(sharded, Fanout)
    assert sharded.merge([PartReply(A, b":1\r\n")]) == b":4\r\n"


# --- beside a real server --------------------------------------------------------------------------

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


class Raw:
    """A connection that shows replies as they are."""

    def __init__(self, server: RedisServer) -> None:
        self.socket = socket.create_connection((server.host, server.port), timeout=10)
        self.scanner = ReplyScanner()
        self.replies: deque[bytes] = deque()

    def send(self, *args: bytes) -> None:
        self.socket.sendall(frame(*args))

    def read(self) -> bytes:
        while not self.replies:
            self.replies.extend(self.scanner.feed(self.socket.recv(65536)))
        return self.replies.popleft()

    def call(self, *args: bytes) -> bytes:
        self.send(*args)
        return self.read()


class Proxied:
    """A session of a hub that has a real server behind it."""

    def __init__(self, server: RedisServer, protocol: int) -> None:
        self.upstream = Raw(server)
        self.received: deque[bytes] = deque()
        self.client = new_client(1, protocol)
        self.name = str(server.address)
        self.hub = Hub(
            send=lambda _, data: self.upstream.socket.sendall(data),
            push=lambda _, data: self.received.append(data),
            owner=lambda _: self.name,
            masters=lambda: [self.name],
            tally=Tally(),
        )
        self.hub.opened(self.name)
        self.context = cast("Context", SimpleNamespace(hub=self.hub))

    def send(self, *args: bytes) -> None:
        answer = HANDLERS[args[0]][1](self.client, self.context, list(args))
        if isinstance(answer, bytes):
            self.received.extend(ReplyScanner().feed(answer))
        elif isinstance(answer, Pending):
            answer.start(lambda reply: self.received.extend(ReplyScanner().feed(reply)))

    def read(self) -> bytes:
        while not self.received:
            self.hub.received(self.name, self.upstream.read())
        return self.received.popleft()


@needs_redis
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_session_reads_what_a_connection_to_redis_reads(redis: RedisServer, protocol: int) -> None:
    direct, proxied, publisher = Raw(redis), Proxied(redis, protocol), Raw(redis)
    if protocol == 3:
        direct.call(b"HELLO", b"3")
    script: list[tuple[int, list[bytes]]] = [
        (1, [b"unsubscribe"]),
        (1, [b"punsubscribe"]),
        (2, [b"sunsubscribe", b"{a}x", b"{a}y"]),
        (3, [b"subscribe", b"a", b"b", b"a"]),
        (2, [b"psubscribe", b"a*", b""]),
        (2, [b"ssubscribe", b"{a}x", b"{a}y"]),
        (2, [b"PUBLISH", b"a", b"one\r\n\0"]),
        (1, [b"PUBLISH", b"ab", b""]),
        (1, [b"SPUBLISH", b"{a}x", b"three"]),
        (1, [b"sunsubscribe", b"{a}y"]),
        (1, [b"sunsubscribe"]),
        (1, [b"sunsubscribe", b"a"]),
        (2, [b"unsubscribe", b"b", b"none"]),
        (2, [b"PUBLISH", b"a", b"x" * 100000]),
        (1, [b"unsubscribe"]),
        (1, [b"unsubscribe"]),
        (1, [b"punsubscribe", b"a*"]),
        (1, [b"punsubscribe"]),
        (1, [b"punsubscribe"]),
    ]
    for replies, args in script:
        if args[0].endswith(b"PUBLISH"):
            publisher.call(*args)
        else:
            direct.send(*args)
            proxied.send(*args)
        for _ in range(replies):
            assert proxied.read() == direct.read(), args
    assert proxied.client.subscriptions == 0
    ping = [b"PING", b"x"]
    if protocol == 2:
        direct.send(b"subscribe", b"a")
        direct.read()
        assert subscribed_ping(ping) == direct.call(*ping)
        assert subscribed_ping([b"ping"]) == direct.call(b"ping")
        assert subscribed_ping([*ping, b"y"]) == direct.call(*ping, b"y")


@needs_redis
def test_patterns_match_what_they_match_in_redis(redis: RedisServer) -> None:
    """In PUBSUB CHANNELS, which goes by the same function as PSUBSCRIBE."""
    texts = [b"", b"a", b"A", b"b", b"ab", b"Ab", b"aB", b"a-b", b"]", b"^", b"\\", b"[a]", b"aab", b"abab"]
    listener, asker = Raw(redis), Raw(redis)
    for text in texts:
        listener.call(b"SUBSCRIBE", text)

    @settings(deadline=None, max_examples=1000)
    @given(st.text("aAbB-[]^\\*?", max_size=8).map(str.encode))
    def compare(pattern: bytes) -> None:
        reader = hiredis.Reader()
        reader.feed(asker.call(b"PUBSUB", b"CHANNELS", pattern))
        assert {text for text in texts if matches(pattern, text, nocase=False)} == set(
            cast("list[bytes]", reader.gets())
        )

    compare()


def test_patterns_of_any_length_match() -> None:
    long = b"?" * 1000
    assert matches(long, b"x" * 1000, nocase=False)
    assert not matches(long + b"Y", b"x" * 1000 + b"y", nocase=False)
    assert matches(long + b"Y", b"x" * 1000 + b"y")
    assert not matches(b"a*A", b"aa", nocase=False)
