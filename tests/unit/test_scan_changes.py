"""SCAN of a simulated cluster that changes meanwhile: what is there all the time is given."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from zlib import crc32

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.answers.scan import STEPS
from proxy.fanout import Fanout, PartReply
from proxy.reply import array, bulk
from proxy.slots import slot_of
from proxy.topology import SLOTS, Topology
from tests.unit.scan_calls import (
    BUCKETS,
    Known,
    given_by,
    nodes,
    read,
    requests,
    scan,
    shard,
    steps_of_a_call,
)

TAGS = [f"{{{number}}}" for number in range(40)]
"""Hash tags: their slots have some keys each."""


@dataclass(eq=False)
class Server:
    """A master, or one that was; its SCAN goes through its buckets in an order of its own."""

    port: int
    seed: int
    shard: int
    keys: set[str] = field(default_factory=set)

    def scan(self, cursor: int, count: int) -> bytes:
        """``count`` buckets from this one on. A cursor of another server is taken for what it is not."""
        begin = cursor % BUCKETS
        end = begin + count
        found = [key for key in self.keys if begin <= self._bucket(key) < end]
        return given_by(end if end < BUCKETS else 0, *found)

    def _bucket(self, key: str) -> int:
        return crc32(f"{self.seed} {key}".encode()) % BUCKETS

    def keys_in_slot(self, slot: int) -> list[str]:
        return sorted(key for key in self.keys if slot_of(key.encode()) == slot)


class SimulatedCluster:
    """Servers that own slots, and know at once that they do; proxies learn of it up to ``lag`` steps later.

    Slots that nobody owns there may be, too. Slots are handed over at once, or key by key. The first
    servers own a slot each that stays with their shard: keys are migrated only to masters that
    proxies know as such. A slot doesn't come back unnoticed.
    """

    def __init__(self, chance: random.Random, lag: int) -> None:
        self.chance = chance
        self.lag = lag
        self.now = 0
        self.next_port = 0
        self.gone: list[tuple[int, int]] = []  # when, and the port
        self.demoted: dict[int, Server] = {}  # by port
        self.left: dict[tuple[int, int], int] = {}  # when a slot left a shard
        self.migrating: dict[int, Server] = {}  # a slot's keys go there one by one
        self.servers: list[Server] = []
        for _ in range(chance.randrange(1, 6)):
            self._grow()
        cuts = sorted(chance.sample(range(1, SLOTS), chance.randrange(2, 24)))
        holes = chance.choice((0, 0.3))
        self.owners: list[Server | None] = []
        for number, (first, last) in enumerate(zip([0, *cuts], [*cuts, SLOTS], strict=True)):
            owner = None if number and chance.random() < holes else chance.choice(self.servers)
            self.owners += [owner] * (last - first)
        self.homes = chance.sample(range(SLOTS), len(self.servers))
        self.first_shards = len(self.servers)
        for slot, server in zip(self.homes, self.servers, strict=True):
            self.owners[slot] = server
        self.topologies = [self._topology()]

    def _runs(self) -> list[tuple[Server, int, int]]:
        """Who owns which contiguous slots."""
        found, first = [], 0
        for owner, same in groupby(self.owners):
            after = first + sum(1 for _ in same)
            if owner is not None:
                found.append((owner, first, after - 1))
            first = after
        return found

    def _topology(self) -> Topology:
        owned: dict[int, list[tuple[int, int]]] = {server.port: [] for server in self.servers}
        for owner, first, last in self._runs():
            owned[owner.port].append((first, last))
        return Topology(tuple(shard(port, *ranges) for port, ranges in sorted(owned.items())))

    def tick(self) -> None:
        """Another step begins."""
        self.now += 1
        self.topologies.append(self.topologies[-1])

    def seen(self, at_least: int = 0) -> int:
        """The number of a topology that a proxy may know."""
        newest = len(self.topologies) - 1
        return self.chance.randint(max(at_least, newest - self.lag), newest)

    # --- what requests find ------------------------------------------------------------------

    def server_at(self, port: int, slot: int) -> Server:
        """Who answers: whoever is there; the slot's owner if nobody is."""
        found = next((server for server in self.servers if server.port == port), self.demoted.get(port))
        found = found or self.owners[slot]
        assert found is not None
        return found

    def reply(self, server: Server, args: list[bytes]) -> bytes:
        match args:
            case [b"SCAN", cursor, b"COUNT", count]:
                return server.scan(int(cursor), int(count))
            case [b"CLUSTER", b"NODES"]:
                slots = [f"{first}-{last}" for owner, first, last in self._runs() if owner is server]
                for slot, target in self.migrating.items():
                    if self.owners[slot] is server:
                        slots.append(f"[{slot}->-{target.port:040}]")
                    elif target is server:
                        slots.append(f"[{slot}-<-{0:040}]")
                return nodes(*slots)
            case [b"CLUSTER", b"GETKEYSINSLOT", slot, count]:
                return array([bulk(key) for key in server.keys_in_slot(int(slot))[: int(count)]])
        raise AssertionError(args)

    def set(self, key: str) -> bool:
        owner = self.owners[slot_of(key.encode())]
        if owner is not None:
            owner.keys.add(key)
        return owner is not None

    def delete(self, key: str) -> None:
        for server in self.servers:
            server.keys.discard(key)

    # --- changes -----------------------------------------------------------------------------

    def change(self) -> None:
        if self.migrating and self.chance.random() < 0.7:
            self._migrate(self.chance.choice(list(self.migrating)))
        else:
            others = self._begin_to_migrate, self._begin_to_migrate, self._move, self._fail_over, self._grow
            self.chance.choice(others)()
        self.topologies[-1] = self._topology()

    def _may_go(self, slot: int, target: Server) -> bool:
        source = self.owners[slot]
        back = self.left.get((slot, target.shard), -SLOTS) + self.lag + 2 > self.now
        free = slot not in self.homes and slot not in self.migrating
        return source is not None and source is not target and free and not back

    def _begin_to_migrate(self) -> None:
        slot = slot_of(self.chance.choice(TAGS).encode())
        targets = [server for server in self.servers if server.shard < self.first_shards]
        target = self.chance.choice(targets)
        if self._may_go(slot, target):
            self.migrating[slot] = target

    def _migrate(self, slot: int) -> None:
        """One key goes, or the slot if all have gone."""
        source, target = self.owners[slot], self.migrating[slot]
        assert source is not None
        keys = source.keys_in_slot(slot)
        if keys:
            key = self.chance.choice(keys)
            source.keys.remove(key)
            target.keys.add(key)
        else:
            del self.migrating[slot]
            self._hand_over(slot, target)

    def _move(self) -> None:
        """Some neighbouring slots change hands at once, with all they have."""
        first = self.chance.randrange(SLOTS)
        target = self.chance.choice(self.servers)
        for slot in range(first, min(first + self.chance.randrange(1, 2000), SLOTS)):
            if self._may_go(slot, target):
                self._hand_over(slot, target)
        for server in self.servers:
            for key in [key for key in server.keys if self.owners[slot_of(key.encode())] is target]:
                if slot_of(key.encode()) not in self.migrating:
                    server.keys.remove(key)
                    target.keys.add(key)

    def _hand_over(self, slot: int, target: Server) -> None:
        source = self.owners[slot]
        assert source is not None
        self.left[slot, source.shard] = self.now
        self.owners[slot] = target

    def _fail_over(self) -> None:
        """To a server that has the same keys; the old one is gone, or a replica then."""
        old = self.chance.choice(self.servers)
        new = Server(self._port(), self.chance.getrandbits(32), old.shard, old.keys)
        if self.chance.random() < 0.5:
            self.demoted[old.port] = old
        else:
            self.gone.append((self.now, old.port))
        self.servers = [new if server is old else server for server in self.servers]
        self.owners = [new if owner is old else owner for owner in self.owners]
        self.migrating = {slot: new if to is old else to for slot, to in self.migrating.items()}

    def _port(self) -> int:
        """At times one that has been another's, when all know that it is no more."""
        for gone in self.gone:
            if gone[0] + self.lag + 2 <= self.now and self.chance.random() < 0.3:
                self.gone.remove(gone)
                return gone[1]
        self.next_port += self.chance.randrange(1, 9)
        return self.next_port

    def _grow(self) -> None:
        if len(self.servers) < 8:
            self.servers.append(Server(self._port(), self.chance.getrandbits(32), len(self.servers)))


def scan_once(
    cluster: SimulatedCluster, cursor: int, count: int, meanwhile: Callable[[int], None]
) -> tuple[int, list[bytes]]:
    """One call; ``meanwhile`` is called at three moments of each step: before the servers answer,
    before their answers are here, and after that."""
    seen = cluster.seen()
    context = Known(cluster.topologies[seen])  # a new one for each call: nothing is kept but the cursor
    call = scan(context, cursor, "COUNT", count)
    while isinstance(call, Fanout):
        seen = cluster.seen(seen)
        context.topology = cluster.topologies[seen]
        ports = {
            slot: shard.master.port
            for slot, _ in call.parts
            for shard in context.topology.shards
            if any(first <= slot <= last for first, last in shard.ranges)
        }
        meanwhile(0)
        replies = []
        for slot, args in requests(call):
            server = cluster.server_at(ports[slot], slot)
            replies.append(PartReply(f"10.0.0.1:{server.port}", cluster.reply(server, args)))
        meanwhile(1)
        seen = cluster.seen(seen)
        context.topology = cluster.topologies[seen]
        call = call.merge(replies)
        meanwhile(2)
        cluster.tick()
    return read(call)


# The same examples each time: of so many changes, the check lets one pass unnoticed now and then.
@settings(max_examples=300, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 32))
def test_what_stays_is_given_whatever_changes(seed: int) -> None:
    chance = random.Random(seed)
    lag = chance.choice((0, 3, 20))
    cluster = SimulatedCluster(chance, lag)
    names = [f"{chance.choice(TAGS)}{number}" for number in range(chance.randrange(100))]
    kept = {key for key in names if cluster.set(key)}
    others = [f"other:{number}" for number in range(20)]
    changes = chance.randrange(1, 60)
    rate = chance.choice((0.05, 0.3, 0.9))
    count = chance.choice((1, 3, BUCKETS))
    limit = chance.choice((1, 3, STEPS))
    cursor, calls, calm = 0, 0, 0
    due: int | None = None
    found: set[str] = set()

    def meanwhile(moment: int) -> None:
        nonlocal changes, calm, due
        if moment == 0:
            # One change a step at most: a slot that leaves and is back before the reply can't be noticed.
            due = chance.randrange(3) if changes and chance.random() < rate else None
            changes -= due is not None
            calm += not changes
        cluster.set(chance.choice(others))
        cluster.delete(chance.choice(others))
        if moment == due:
            cluster.change()

    while cursor or not calls:
        with steps_of_a_call(limit):
            cursor, keys = scan_once(cluster, cursor, count, meanwhile)
        found.update(key.decode() for key in keys)
        calls += 1
        # Once all changes are over and known, each range is scanned once and verified, slot by slot that
        # is still on the move; so is the one it is at, once more.
        ranges = sum(len(shard.ranges) for shard in cluster.topologies[-1].shards)
        turns = (ranges + 1) * (-(-BUCKETS // count) + 1) + 2 * len(cluster.migrating)
        assert calm <= lag + turns + 1, "it does not end"
    assert kept <= found


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 32))
def test_every_key_is_given_once_if_nothing_changes(seed: int) -> None:
    chance = random.Random(seed)
    cluster = SimulatedCluster(chance, lag=0)
    kept = {key for key in map(str, range(100)) if cluster.set(key)}
    cursor = 0
    found: list[bytes] = []
    while cursor or not cluster.now:
        cursor, keys = scan_once(cluster, cursor, 4, lambda _: None)
        found += keys
    assert sorted(found) == sorted(key.encode() for key in kept)
    owners = [shard for shard in cluster.topologies[-1].shards if shard.ranges]
    assert cluster.now == len(owners) * (BUCKETS // 4 + 1), "steps"
