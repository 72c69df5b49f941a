"""Subscriptions in any order of events: everyone gets what it asked for, once, and nothing else."""

from collections.abc import Callable
from typing import Any, cast

import hiredis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.pubsub import SUBSCRIPTION_SIZE, Kind
from proxy.slots import slot_of
from tests.unit.pubsub_servers import (
    SPARE,
    A,
    B,
    C,
    Servers,
    frame,
    new_client,
)

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
            names = [name for owner, _, name in self.tokens if owner == session]
            assert client.subscriptions == len(names)
            assert client.subscribed_bytes == sum(SUBSCRIPTION_SIZE + 2 * len(name) for name in names)
        if hasattr(self, "tokens") and not self.tokens:
            assert not self.servers.hub._sessions or self.owed
            assert not any(self.servers.hub._named.values())
            if not any(self.servers.hub._asked.values()):
                assert not self.servers.tally, "what is left has been confirmed"


TestSessions = Sessions.TestCase
