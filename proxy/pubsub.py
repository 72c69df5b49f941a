"""Publish and subscribe, without I/O: many sessions' subscriptions kept on one connection to each server.

A worker has one ``Hub`` for each cluster. The hub subscribes to a name once, however many of its
sessions want it, and passes on to each what comes. Servers of a cluster tell each other of every
PUBLISH, so a channel or pattern may be subscribed to at any of them. The *home* of all is one server,
the owner of ``PUBSUB_SLOT``, where PUBLISH goes too: so messages come in the order they were published
in, and receivers are counted, as with one plain Redis. What is too much for one server is what shard
channels are for: the home of each is the owner of its slot. Keyspace notifications are told only by
the server that has the key: their channels, and patterns that may match them, ``*`` for one, are at
home at every master; what is no notification is passed on from one of them.

When a name moves, the old home is left only once the new one has confirmed, and messages are passed
on from one home at a time: what is published within that moment may come twice or not at all.

Sources: https://redis.io/docs/latest/develop/pubsub/ and redis-server's pubsub.c.
"""

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from proxy.address import Address
from proxy.glob import matches
from proxy.reply import RESP3, array, bulk, integer, null
from proxy.slots import slot_of

EVERYWHERE: Final = b"__key"
"""How channels of notifications begin: ``__keyspace@0__:…``, ``__keyevent@0__:…``."""
PUBSUB_SLOT: Final = 0  # kept in step with dispatch.pyx
SUBSCRIPTION_SIZE: Final = 1536
"""Bytes that a subscription takes here beside its name, as measured."""
MOST_REDIRECTIONS: Final = 5
"""MOVED in a row that are followed; then the name waits for the next topology."""


class Kind(Enum):
    """What a name is; the value is the command that subscribes to it."""

    CHANNEL = "subscribe"
    PATTERN = "psubscribe"
    SHARD = "ssubscribe"

    def __init__(self, command: str) -> None:
        prefix = command.removesuffix("subscribe")
        self.subscribe = command.encode()
        self.unsubscribe = f"{prefix}unsubscribe".encode()
        self.message = f"{prefix}message".encode()


def home_slot(kind: Kind, name: bytes) -> int:
    """The slot whose owner is the home of a name."""
    return slot_of(name) if kind is Kind.SHARD else PUBSUB_SLOT


def _may_notify(kind: Kind, name: bytes) -> bool:
    """Whether the name is a channel of notifications, or a pattern that may match one."""
    if kind is Kind.CHANNEL:
        return name.startswith(EVERYWHERE)
    literal = re.split(rb"[*?\[\\]", name, maxsplit=1)[0]
    return literal.startswith(EVERYWHERE) or (literal != name and EVERYWHERE.startswith(literal))


def _size_of(name: bytes) -> int:
    """Bytes that a subscription takes, with those of the request that will end it."""
    return SUBSCRIPTION_SIZE + 2 * len(name)


class Subscriber(Protocol):
    """What a hub needs of a client: ``proxy.answers.Client`` is one."""

    id: int  # of its session
    protocol: int  # may change at any time
    subscriptions: int  # the hub's to write: how many names of all kinds it is subscribed to
    subscribed_bytes: int  # the hub's to write: what they take


# --- how many receive a message ----------------------------------------------------------------


@dataclass(slots=True)
class _Count:
    sessions: int = 0
    hubs: dict[str, int] = field(default_factory=dict)  # by server: those that are subscribed there


class Tally:
    """Who of this process is subscribed to the names of one cluster; its workers' hubs share it.

    Servers count one receiver for each hub. ``receivers`` puts the numbers of sessions in their place.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Kind, dict[bytes, _Count]] = {kind: {} for kind in Kind}
        self.flag: Final = bytearray(1)
        """Its byte is not 0 while anything is subscribed to at all; data planes read it without the GIL."""

    def __bool__(self) -> bool:
        """Whether anything is subscribed to at all."""
        return bool(self.flag[0])

    def sessions(self, kind: Kind, name: bytes, change: int) -> None:
        """So many sessions more, or fewer, receive what is published to the name."""
        with self._lock:
            count = self._counts[kind].setdefault(name, _Count())
            count.sessions += change
            self.flag[0] = 1
            self._clear(kind, name, count)

    def hubs(self, kind: Kind, name: bytes, server: str, change: int) -> None:
        """So many hubs more, or fewer, are subscribed to the name at the server."""
        with self._lock:
            count = self._counts[kind].setdefault(name, _Count())
            count.hubs[server] = count.hubs.get(server, 0) + change
            if not count.hubs[server]:
                del count.hubs[server]
            self._clear(kind, name, count)

    def _clear(self, kind: Kind, name: bytes, count: _Count) -> None:
        if not count.sessions and not count.hubs:
            del self._counts[kind][name]
            self.flag[0] = any(self._counts.values())

    def surplus(self, kind: Kind, name: bytes, servers: Iterable[str]) -> int:
        """How many sessions are subscribed to the name beyond the hubs that these servers count for it."""
        with self._lock:
            count = self._counts[kind].get(name)
            return count.sessions - sum(count.hubs.get(server, 0) for server in servers) if count else 0

    def repeated_patterns(self) -> int:
        """How often servers, taken together, count patterns of this process more than once."""
        with self._lock:
            return sum(len(count.hubs) - 1 for count in self._counts[Kind.PATTERN].values() if count.hubs)

    def receivers(self, channel: bytes, server: str, counted: int, kind: Kind = Kind.CHANNEL) -> int:
        """How many received a message of which the server (host:port) says that ``counted`` did.

        A shard channel's kind is SHARD: patterns do not match those.
        """
        sessions, hubs = self._counts_at(kind, channel, server)
        if kind is not Kind.SHARD and self._counts[Kind.PATTERN]:
            with self._lock:
                patterns = list(self._counts[Kind.PATTERN])
            for pattern in patterns:
                if matches(pattern, channel, nocase=False):
                    more, there = self._counts_at(Kind.PATTERN, pattern, server)
                    sessions, hubs = sessions + more, hubs + there
        # A hub that is leaving may be counted by the server still, or no longer.
        return sessions + max(counted - hubs, 0)

    def _counts_at(self, kind: Kind, name: bytes, server: str) -> tuple[int, int]:
        """The sessions that receive a name, and the hubs that the server counts in their place."""
        with self._lock:
            count = self._counts[kind].get(name)
            return (count.sessions, count.hubs.get(server, 0)) if count else (0, 0)


# --- the hub -------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Asked:
    """A request on a server's connection: to subscribe to one name there, or not to any longer."""

    subscription: "_Subscription"
    word: bytes  # of its confirmation
    confirmed: bool = False
    counted: bool = False  # to leave: the server counts us among the receivers until it has


@dataclass(slots=True, eq=False)
class _Subscription:
    """A name that sessions are subscribed to, and where."""

    kind: Kind
    name: bytes
    slot: int
    everywhere: bool
    listeners: dict[int, Subscriber] = field(default_factory=dict)  # by session: they get its messages
    pending: dict[int, "_Wait"] = field(default_factory=dict)  # by session: they will, once they know
    waits: dict["_Wait", None] = field(default_factory=dict)  # what its confirmation is awaited for
    at: dict[str, _Asked] = field(default_factory=dict)  # by server; messages count once it is confirmed
    targets: list[str] = field(default_factory=list)  # the servers where it is to be; []: not known
    displaced: bool = False  # the target stands in for a home that can't be reached
    redirections: int = 0


@dataclass(slots=True, eq=False)
class _Wait:
    """A session's SUBSCRIBE that is not answered yet."""

    client: Subscriber
    complete: Callable[[bytes], None]
    reply: bytes = b""
    left: set[_Subscription] = field(default_factory=set)  # still to be confirmed
    added: list[_Subscription] = field(default_factory=list)  # those the session did not have before


@dataclass(slots=True)
class _Session:
    client: Subscriber
    names: dict[Kind, dict[bytes, _Subscription]] = field(default_factory=lambda: {kind: {} for kind in Kind})
    waits: set[_Wait] = field(default_factory=set)

    def count(self, kind: Kind) -> int:
        """The number that confirmations tell: shard channels are counted apart."""
        if kind is Kind.SHARD:
            return len(self.names[kind])
        return len(self.names[Kind.CHANNEL]) + len(self.names[Kind.PATTERN])


class Hub:
    """The subscriptions of one worker's sessions to names of one cluster.

    Servers are "host:port", sessions are ``Client.id``. All calls are made in the worker's thread.
    The subscription connections speak RESP2 and belong to the caller. ``send`` keeps bytes for a
    connection that is still being dialed, calls nothing back, and spaces the dials to a server that
    fails; ``opened`` is told before the first reply, and ``lost`` of every dial that failed and every
    connection that broke: what had been sent there is forgotten then.
    ``complete`` and ``push`` may call the hub again.
    """

    def __init__(
        self,
        *,
        send: Callable[[str, bytes], None],
        push: Callable[[int, bytes], None],
        owner: Callable[[int], str | None],
        masters: Callable[[], list[str]],
        tally: Tally,
        refresh: Callable[[str], None] = lambda reason: None,
        slot: Callable[[Kind, bytes], int] = home_slot,
    ) -> None:
        """``owner`` is of a slot; ``refresh`` asks for a topology, of which ``topology_changed`` tells.

        ``slot`` is where a name is at home.
        """
        self.tally: Final = tally
        self._send = send
        self._push = push
        self._owner = owner
        self._masters = masters
        self._refresh = refresh
        self._slot = slot
        self._sessions: dict[int, _Session] = {}
        # By the word that begins a message of that kind.
        self._named: dict[bytes, dict[bytes, _Subscription]] = {kind.message: {} for kind in Kind}
        self._asked: dict[str, deque[_Asked]] = {}  # by server, in order: what it has not answered yet
        self._open: set[str] = set()
        self._down: set[str] = set()  # servers that could not be reached when last tried

    # --- what sessions ask for -------------------------------------------------------------------

    def subscribe(
        self, client: Subscriber, kind: Kind, names: list[bytes], complete: Callable[[bytes], None]
    ) -> None:
        """Subscribes a session to names. Calls ``complete`` with its reply once servers have confirmed all.

        The reply is a confirmation for each name, or the error with which a server refused one: then
        none is subscribed to. Messages are passed on to the session from then on.
        """
        session = self._sessions.setdefault(client.id, _Session(client))
        wait = _Wait(client, complete)
        session.waits.add(wait)
        named = self._named[kind.message]
        replies = []
        for name in names:
            subscription = named.get(name)
            if subscription is None:
                everywhere = kind is not Kind.SHARD and _may_notify(kind, name)
                subscription = named[name] = _Subscription(kind, name, self._slot(kind, name), everywhere)
            if name not in session.names[kind]:
                session.names[kind][name] = subscription
                client.subscriptions += 1
                client.subscribed_bytes += _size_of(name)
                subscription.pending[client.id] = wait
                wait.added.append(subscription)
            if not self._live(subscription):
                subscription.waits[wait] = None
                wait.left.add(subscription)
            replies.append(_confirmation(client, kind.subscribe, name, session.count(kind)))
        wait.reply = b"".join(replies)
        for subscription in wait.added:
            if not subscription.targets:
                self._settle(subscription)
        if not wait.left:
            self._finish(wait)

    def unsubscribe(self, client: Subscriber, kind: Kind, names: list[bytes]) -> bytes:
        """Ends a session's subscriptions to names, or to all of that kind; returns the reply."""
        session = self._sessions.get(client.id) or _Session(client)
        own = session.names[kind]
        replies = []
        for name in names or list(own):
            if name in own:
                self._leave(session, own[name])
            replies.append(_confirmation(client, kind.unsubscribe, name, session.count(kind)))
        self._tidy(session)
        return b"".join(replies) or _confirmation(client, kind.unsubscribe, None, session.count(kind))

    def forget(self, session: int) -> None:
        """Ends all subscriptions of a session that has gone or was RESET; none of its waits completes."""
        gone = self._sessions.pop(session, None)
        if gone is None:
            return
        for wait in gone.waits:
            for subscription in wait.left:
                subscription.waits.pop(wait, None)
        for names in gone.names.values():
            for subscription in list(names.values()):
                self._leave(gone, subscription)

    # --- what servers say ------------------------------------------------------------------------

    def received(self, server: str, frame: bytes) -> None:
        """Takes one whole reply from a server's subscription connection.

        Raises ValueError when it is none that such a connection can get.
        """
        if not frame.startswith(b"*"):
            if frame.startswith(b"-"):
                self._refused(server, frame)
            return  # or PONG
        word, at = _bulk(frame, frame.index(b"\n") + 1)
        name, after = _bulk(frame, at)
        named = self._named.get(word)
        if named is None:
            self._answered(server, word, name)
            return
        subscription = named.get(name)
        asked = subscription.at.get(server) if subscription else None
        if subscription is None or asked is None or not asked.confirmed:
            return  # nobody wants it any more, or it comes from another home
        if subscription.everywhere and subscription.kind is Kind.PATTERN:
            channel, _ = _bulk(frame, after)
            if not channel.startswith(EVERYWHERE) and server != self._first(subscription):
                return  # every master passes it on
        resp3 = b""
        for client in list(subscription.listeners.values()):  # a push may end a session
            if client.protocol != RESP3:
                self._push(client.id, frame)
            else:
                resp3 = resp3 or b"".join((b">", memoryview(frame)[1:]))
                self._push(client.id, resp3)

    def _first(self, subscription: _Subscription) -> str | None:
        """The master whose messages count where all of them have the same."""
        home = self._owner(subscription.slot)
        if home is not None and home in subscription.at and subscription.at[home].confirmed:
            return home
        return next((server for server, asked in subscription.at.items() if asked.confirmed), None)

    def opened(self, server: str) -> None:
        """The connection to a server stands."""
        self._open.add(server)
        if server in self._down:
            self._down.discard(server)
            for subscription in self._all():
                if subscription.displaced:
                    self._settle(subscription)

    def lost(self, server: str) -> None:
        """The connection to a server broke, or could not be made: its names are subscribed to anew.

        A server that broke off is tried again first. One that can't be reached is passed over by
        names that may be elsewhere, until it opens; with each new topology, those try it again.
        """
        if server in self._open:
            self._open.discard(server)
        else:
            self._down.add(server)
            if self._down.issuperset(self._masters()):
                self._down = {server}  # nothing is left to try but what failed before
        for asked in self._asked.pop(server, ()):
            self._left(asked, server)
        homed = [subscription for subscription in self._all() if server in subscription.at]
        for subscription in homed:
            self._lose(subscription, server)
        for subscription in homed:
            self._settle(subscription)

    def topology_changed(self) -> None:
        """Moves names that are not where they ought to be, and tries again those that have no home."""
        masters = self._masters()
        self._down.intersection_update(masters)
        for subscription in self._all():
            targets = subscription.targets
            if not targets or subscription.displaced:
                misplaced = True
            elif subscription.everywhere:
                misplaced = set(targets) != set(masters)
            elif subscription.kind is Kind.SHARD:
                misplaced = targets != [self._owner(subscription.slot)]
            else:
                misplaced = targets[0] not in masters
            if misplaced:
                subscription.redirections = 0
                # A name that is live somewhere can afford to try whether its home is back.
                self._settle(subscription, hopeful=self._live(subscription))

    # --- replies of servers ----------------------------------------------------------------------

    def _answered(self, server: str, word: bytes, name: bytes) -> None:
        waiting = self._asked.get(server)
        if waiting and (waiting[0].word, waiting[0].subscription.name) == (word, name):
            asked = waiting.popleft()
            subscription = asked.subscription
            self._left(asked, server)
            if subscription.at.get(server) is asked:
                asked.confirmed = True
                subscription.redirections = 0
                self.tally.hubs(subscription.kind, name, server, 1)
                self._check(subscription)
        elif word == Kind.SHARD.unsubscribe:
            # Not asked for: the slot has left that server.
            moved = self._named[Kind.SHARD.message].get(name)
            if moved and server in moved.at and moved.at[server].confirmed:
                self._lose(moved, server)
                self._refresh("sunsubscribe")
                self._settle(moved)

    def _refused(self, server: str, error: bytes) -> None:
        waiting = self._asked.get(server)
        if not waiting:
            return
        subscription = waiting[0].subscription
        there: list[str] | None = None
        if error.startswith(b"-MOVED "):
            _, slot, named = error.split()
            if (subscription.kind, b"%d" % subscription.slot) != (Kind.SHARD, slot):
                return  # for a SUNSUBSCRIBE whose confirmation the slot's leaving was taken for
            there = _redirected(server, named)
        asked = waiting.popleft()
        self._left(asked, server)
        if subscription.at.get(server) is not asked:
            return  # nobody wants it any more
        self._lose(subscription, server)
        if there is not None:
            self._refresh("MOVED")
            subscription.redirections += 1
            self._move(subscription, there if subscription.redirections <= MOST_REDIRECTIONS else [])
        elif error.startswith(b"-CLUSTERDOWN"):
            self._refresh("CLUSTERDOWN")
            self._move(subscription, [])
        else:
            self._fail(subscription, error)

    def _fail(self, subscription: _Subscription, error: bytes) -> None:
        """Gives a name up: who waits for it gets the error, who has it is told that it ended."""
        failed = list(dict.fromkeys([*subscription.waits, *subscription.pending.values()]))
        for wait in failed:
            for other in wait.left:
                other.waits.pop(wait, None)
        for wait in failed:
            session = self._sessions.get(wait.client.id)
            for added in wait.added:
                if session is not None and added.pending.get(wait.client.id) is wait:
                    self._leave(session, added)
        for client in list(subscription.listeners.values()):
            session = self._sessions.get(client.id)
            if session is not None and subscription.name in session.names[subscription.kind]:
                self._leave(session, subscription)
                self._tidy(session)
                word, count = subscription.kind.unsubscribe, session.count(subscription.kind)
                self._push(client.id, _confirmation(client, word, subscription.name, count))
        for wait in failed:
            self._complete(wait, error)

    # --- where names are -------------------------------------------------------------------------

    def _all(self) -> list[_Subscription]:
        return [subscription for named in self._named.values() for subscription in named.values()]

    def _place(self, subscription: _Subscription, hopeful: bool) -> list[str]:
        """The servers where a name ought to be, as things stand; [] when that is not known.

        ``hopeful`` takes its home for one that can be reached.
        """
        subscription.displaced = False
        if subscription.everywhere:
            return self._masters()
        home = self._owner(subscription.slot)
        homes = [home] if home is not None else []
        if subscription.kind is Kind.SHARD or (homes and (hopeful or home not in self._down)):
            return homes
        subscription.displaced = True
        reachable = [server for server in self._masters() if server not in self._down]
        for server, asked in subscription.at.items():
            if asked.confirmed and server in reachable:
                return [server]
        return [reachable[subscription.slot % len(reachable)]] if reachable else homes

    def _settle(self, subscription: _Subscription, hopeful: bool = False) -> None:
        """Brings a name to where it ought to be, unless it has been dropped."""
        if self._named[subscription.kind.message].get(subscription.name) is subscription:
            self._move(subscription, self._place(subscription, hopeful))

    def _move(self, subscription: _Subscription, targets: list[str]) -> None:
        """Asks for a name where it is to be. An old home is kept until the new one has confirmed."""
        subscription.targets = targets
        for server in targets:
            if server not in subscription.at:
                self._ask(subscription, server, subscription.kind.subscribe)
        for server, asked in list(subscription.at.items()):
            if server not in targets and (subscription.everywhere or not asked.confirmed):
                self._release(subscription, server)
        self._check(subscription)

    def _check(self, subscription: _Subscription) -> None:
        """Leaves old homes if the new ones have confirmed, and tells who waits for the name if it is live."""
        at, targets = subscription.at, subscription.targets
        if targets and all(at[server].confirmed for server in targets):
            for server in [server for server in at if server not in targets]:
                self._release(subscription, server)
        if self._live(subscription):
            self._tell(subscription)

    def _live(self, subscription: _Subscription) -> bool:
        """Whether messages come by now, from every place they come from."""
        at = subscription.at
        if not subscription.everywhere and subscription.kind is not Kind.SHARD:
            return any(asked.confirmed for asked in at.values())
        reachable = [server for server in subscription.targets if server not in self._down]
        return bool(reachable) and all(server in at and at[server].confirmed for server in reachable)

    def _ask(self, subscription: _Subscription, server: str, word: bytes, counted: bool = False) -> None:
        asked = _Asked(subscription, word, counted=counted)
        if word == subscription.kind.subscribe:
            subscription.at[server] = asked
        # One request for each name, so that each has one reply, be it a confirmation or an error.
        self._asked.setdefault(server, deque()).append(asked)
        self._send(server, array([bulk(word), bulk(subscription.name)]))

    def _lose(self, subscription: _Subscription, server: str) -> None:
        """A name is not at the server any more."""
        if subscription.at.pop(server).confirmed:
            self.tally.hubs(subscription.kind, subscription.name, server, -1)

    def _release(self, subscription: _Subscription, server: str) -> None:
        """A name is to be at the server no longer."""
        counted = subscription.at.pop(server).confirmed
        self._ask(subscription, server, subscription.kind.unsubscribe, counted)

    def _left(self, asked: _Asked, server: str) -> None:
        """The server has answered, or is not there to: it counts us no longer."""
        if asked.counted:
            self.tally.hubs(asked.subscription.kind, asked.subscription.name, server, -1)

    # --- sessions --------------------------------------------------------------------------------

    def _leave(self, session: _Session, subscription: _Subscription) -> None:
        """Ends a session's subscription, and the server's with the last."""
        client = session.client
        del session.names[subscription.kind][subscription.name]
        client.subscriptions -= 1
        client.subscribed_bytes -= _size_of(subscription.name)
        if subscription.pending.pop(client.id, None) is None:
            del subscription.listeners[client.id]
            self.tally.sessions(subscription.kind, subscription.name, -1)
        if not subscription.listeners and not subscription.pending:
            del self._named[subscription.kind.message][subscription.name]
            for server in list(subscription.at):
                self._release(subscription, server)
            self._tell(subscription)  # whoever left while its SUBSCRIBE was pending is still owed a reply

    def _tell(self, subscription: _Subscription) -> None:
        """Nothing waits for this name any more."""
        waits, subscription.waits = subscription.waits, {}
        for wait in waits:
            wait.left.discard(subscription)
            if not wait.left:
                self._finish(wait)

    def _finish(self, wait: _Wait) -> None:
        """Every name is confirmed: the session gets its reply, and messages from now on."""
        client = wait.client
        for subscription in wait.added:
            if subscription.pending.get(client.id) is wait:
                del subscription.pending[client.id]
                subscription.listeners[client.id] = client
                self.tally.sessions(subscription.kind, subscription.name, 1)
        self._complete(wait, wait.reply)

    def _complete(self, wait: _Wait, reply: bytes) -> None:
        session = self._sessions.get(wait.client.id)
        if session is not None and wait in session.waits:
            session.waits.discard(wait)
            self._tidy(session)
            wait.complete(reply)

    def _tidy(self, session: _Session) -> None:
        """Nothing is kept of a session without subscriptions."""
        if not session.waits and not any(session.names.values()):
            self._sessions.pop(session.client.id, None)


def _confirmation(client: Subscriber, word: bytes, name: bytes | None, count: int) -> bytes:
    """What (UN)SUBSCRIBE answers for one name; None: there was none to unsubscribe from."""
    head = b">3\r\n" if client.protocol == RESP3 else b"*3\r\n"
    return head + bulk(word) + (null(client.protocol) if name is None else bulk(name)) + integer(count)


def _bulk(frame: bytes, at: int) -> tuple[bytes, int]:
    """The bulk string that begins there, null as an empty one, and where it ends."""
    line = frame.index(b"\r\n", at)
    begin = line + 2
    size = int(frame[at + 1 : line])
    return (frame[begin : begin + size], begin + size + 2) if size >= 0 else (b"", begin)


def _redirected(server: str, there: bytes) -> list[str]:
    """The server that a MOVED names; without a host it is the one that answered, at another port."""
    host, _, port = there.decode().rpartition(":")
    return [] if host == "?" else [str(Address(host or Address.parse(server).host, int(port)))]
