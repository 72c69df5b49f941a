"""SCAN over the whole cluster, by cursors that any proxy of a fleet can go on with.

SCAN promises that every key which is there from the start to the end is given at least once; keys may
be given twice. No state is kept here, so the cursor has to say all: a number of at most 63 bits, of
these fields, the lowest first:

    1 bit     by_range  which of the two ways below
    14 bits   slot      how far the scan has got: every lower slot is covered
    12 bits   check     a hash of what the cursor relies on
    36 bits   turn      how far the turn of the slot's owner, S, has got:
                            0                it begins
                            1                S is through and has to be asked what it owns
                            2 to 16385       so it has, and the others for the keys of slot turn - 2
                            more             the cursor that S gave, plus 16385

The turn is on top, so that the number stays as small as it can: some clients keep cursors as floating
point numbers, exact below 2**53. "0" begins a scan, and is given at the end alone.

*By shard*, as every scan begins: ``slot`` is the lowest slot of S, and all keys of S are given. When
its turn is over, the owner with the next higher lowest slot follows. Every slot below ``slot`` is
covered, because its owner has a lower lowest slot still. This holds only while no slot changes
hands, and the server's cursor means something to S alone. So the check is on both: how the slots are
parted among shards, and S's name.

*By range*: ``slot`` may be any, and what is wanted of S is the range from it to the last slot of the
contiguous run that S owns. S is scanned, and keys of its other ranges are left out: those have their
own turn or have had it. (Keys in slots that S is not known to own are on the move, and are given.)
The slot after that run follows; slots nobody serves are passed over. The check is on S's name and the
range's end.

When a check does not fit what is known now (a slot moved, S failed over, another proxy of the
fleet knows more or less), the scan goes on by range, from the same slot, at the start of S. So it
does when another server than S has answered, or if things changed while S was answering: a slot
that left before S was through would otherwise count as covered. It stays by range up to the end, at
the price of one scan of the owner for each range that is left, and ends once changes have ended.

*Verification.* What is known here is late, so S itself has the last word on its turn. Once it has
no more to give, the next step asks it (CLUSTER NODES) whether it still owns what was wanted of it.
If not, the range begins anew. Slots that S is migrating by then may have lost keys to another master
before S gave them: one step for each of them asks the other masters for the keys they have of it,
and S again about the slots above.

*Steps.* Each of these - a page of S's own, a verification - is a step, and has a cursor. One call
takes one step after the other until it has the COUNT keys that were asked for, so that a small
database is given at once, as by a single Redis. An error at any step is the reply to the call, and
the client still has the cursor that the call began with.

Keys are still missed when their slot leaves and is back within S's turn; when they go to a master
that owns no slot yet, as no request can be addressed to it; and, with TYPE, when their slot is being
migrated, as keys that come without their types are of no use. And a server that was restarted
under its name takes its old cursors for new ones, as a single Redis does.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple, Self

from proxy.answers.registry import Client, Context, answers, integer_of, word
from proxy.answers.servers import UNREACHED, first_error, request
from proxy.fanout import Answer, Fanout, Part, PartReply
from proxy.glob import matches
from proxy.reply import array, bulk, error
from proxy.resp_values import content, elements, header, is_error
from proxy.slots import slot_of
from proxy.topology import SLOTS, Shard, Topology

INVALID_CURSOR: Final = error("invalid cursor")
TOO_LARGE: Final = error(
    "the server's own SCAN cursor is too large to be passed on: it has more than 36 bits"
)

COUNT: Final = 10
"""How many keys a call is to find unless it says so, as in Redis."""
STEPS: Final = 32
"""How many steps a call takes at most: one whose pattern matches nothing would go through all keys else.
They are enough for a small database of 16 shards, each of which takes one step and a verification."""

SLOT_BITS, CHECK_BITS, TURN_BITS = 14, 12, 36
UNFIT: Final = 0
"""The check of a cursor that begins anew, and of slots that nobody serves."""
VERIFY: Final = 1
"""The turn of a cursor that has S asked what it owns."""
MOVING: Final = 2
"""The same, plus the slot whose keys the other masters are asked for."""
OWN: Final = MOVING + SLOTS - 1
"""What is added to S's own cursor."""
ALL_KEYS: Final = b"%d" % ((1 << 31) - 1)

_REPLY: Final = re.compile(rb"\*2\r\n\$\d+\r\n(\d+)\r\n")
"""How a reply to SCAN begins: with the server's cursor. An array of keys follows."""
_RANGE: Final = re.compile(rb"(\d+)(?:-(\d+))?")
_MIGRATING: Final = re.compile(rb"\[(\d+)->-.*")
"""Slots, and a slot on its way elsewhere, as CLUSTER NODES tells of them."""


class Cursor(NamedTuple):
    """Where a scan has got to. As a number it is never 0."""

    by_range: bool
    slot: int
    check: int
    turn: int

    @classmethod
    def of(cls, number: int) -> Self:
        by_range, number = number & 1, number >> 1
        slot, number = number & (1 << SLOT_BITS) - 1, number >> SLOT_BITS
        check, turn = number & (1 << CHECK_BITS) - 1, number >> CHECK_BITS
        return cls(bool(by_range), slot, check, turn)

    def __int__(self) -> int:
        return ((self.turn << CHECK_BITS | self.check) << SLOT_BITS | self.slot) << 1 | self.by_range


class Found(NamedTuple):
    """What the steps of one call have collected."""

    steps: int = 0
    size: int = 0  # keys
    keys: bytes = b""  # bulk strings, one after the other

    def and_of(self, keys: bytes) -> "Found":
        """With what one more step has found; ``keys`` is an array."""
        count, begin = header(keys)
        return Found(self.steps + 1, self.size + count, self.keys + keys[begin:])

    def page(self, cursor: Cursor | None) -> bytes:
        """The reply to SCAN."""
        number = int(cursor) if cursor else 0
        return array([bulk(b"%d" % number), b"*%d\r\n%b" % (self.size, self.keys)])


GoOn = Callable[[Cursor | None, bytes], bytes | Fanout]
"""What follows a step, given the cursor after it (None at the end) and an array of the keys it found."""


@answers("scan", -2)
def _scan(_client: Client, context: Context, args: list[bytes]) -> Answer:
    asked = args[1]
    if not asked.isdigit() or len(asked) > 20 or int(asked) >> 64:
        return INVALID_CURSOR
    return _step(context, args, int(asked), Found())


def _step(context: Context, args: list[bytes], asked: int, found: Found) -> bytes | Fanout:
    """Goes on at the cursor ``asked`` with what has been found; gives the reply when that is enough."""
    topology = context.topology
    if topology is None or not topology.slots_covered:
        return UNREACHED
    cursor = _resumed(topology, asked)
    if cursor is None:
        return found.page(None)

    def go_on(after: Cursor | None, keys: bytes) -> bytes | Fanout:
        now = found.and_of(keys)
        if after is None or now.size >= _count(args) or now.steps >= STEPS:
            return now.page(after)
        return _step(context, args, int(after), now)

    turn = Turn(context, topology, cursor)
    return turn.verification(args, go_on) if VERIFY <= cursor.turn <= OWN else turn.scan(args, go_on)


def _options(args: list[bytes]) -> dict[bytes, bytes]:
    return {word(name): value for name, value in zip(args[2::2], args[3::2], strict=False)}


def _count(args: list[bytes]) -> int:
    """How many keys are wanted. About a COUNT that is no number the server has to complain."""
    count = integer_of(_options(args).get(b"count", b""))
    return COUNT if count is None else count


def _resumed(topology: Topology, asked: int) -> Cursor | None:
    """What to do about a client's cursor; None if the slots that are left have no server."""
    if not asked:
        return _at(topology, by_range=False, slot=0)
    cursor = Cursor.of(asked)
    if UNFIT != cursor.check == check_of(topology, cursor.by_range, cursor.slot):
        return cursor
    return _at(topology, by_range=True, slot=cursor.slot)


def _at(topology: Topology, by_range: bool, slot: int) -> Cursor | None:
    """The beginning of the first turn at or after this slot; None at the end."""
    turns = (
        max(first, slot)
        for shard in topology.shards
        for first, last in (shard.ranges if by_range else shard.ranges[:1])
        if (last if by_range else first) >= slot
    )
    begin = min(turns, default=None)
    return None if begin is None else Cursor(by_range, begin, check_of(topology, by_range, begin), 0)


def check_of(topology: Topology, by_range: bool, slot: int) -> int:
    """What a cursor's check has to be; UNFIT if nobody serves the slot."""
    found = _owner(topology, slot)
    if found is None:
        return UNFIT
    shard, last = found
    facts = last if by_range else _partition(topology)
    digest = blake2b(f"{shard.master} {facts}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % ((1 << CHECK_BITS) - 1) + 1


@lru_cache(maxsize=16)
def _partition(topology: Topology) -> str:
    """How the slots are parted among shards, whatever their names are."""
    return str(sorted(shard.ranges for shard in topology.shards if shard.ranges))


def _owner(topology: Topology, slot: int) -> tuple[Shard, int] | None:
    """Who serves a slot, and the last slot of the run that it lies in."""
    return next(
        ((shard, last) for shard in topology.shards for first, last in shard.ranges if first <= slot <= last),
        None,
    )


class Turn:
    """One step of a shard's turn: what its servers are asked, and what follows from their replies."""

    def __init__(self, context: Context, topology: Topology, cursor: Cursor) -> None:
        """``topology`` is what the request is made by. Raises ValueError if nobody serves the slot."""
        found = _owner(topology, cursor.slot)
        if found is None:
            raise ValueError(f"slot {cursor.slot} is not served")
        self._shard, self._last = found
        self._context = context
        self._topology = topology
        self._cursor = cursor

    def scan(self, args: list[bytes], go_on: GoOn) -> Fanout:
        """Has the shard's server go on with its own scan."""
        own = max(self._cursor.turn - OWN, 0)
        whole = request([args[0], b"%d" % own, *args[2:]])

        def merge(replies: Sequence[PartReply]) -> bytes | Fanout:
            ((_, reply),) = replies
            if is_error(reply):
                return reply
            begin = _REPLY.match(reply)
            if begin is None:
                raise ValueError(f"not a reply to SCAN: {reply[:64]!r}")
            keys = reply[begin.end() :]
            if self._cursor.by_range:
                keys = _of_range(keys, self._shard, self._cursor.slot, self._last)
            own = int(begin[1])
            if own + OWN >> TURN_BITS:
                return TOO_LARGE
            if self._changed(replies, [self._shard]):
                return go_on(self._anew, keys)
            return go_on(self._cursor._replace(turn=own + OWN if own else VERIFY), keys)

        return Fanout([Part(self._cursor.slot, whole)], merge, readonly=True)

    def verification(self, args: list[bytes], go_on: GoOn) -> Fanout:
        """Asks the shard's server what it owns, and the others for a slot's keys if the cursor names one."""
        moving = self._cursor.turn - MOVING  # every slot up to this one has been verified
        options = _options(args)
        asked = [self._shard]
        parts = [Part(self._cursor.slot, request([b"CLUSTER", b"NODES"]))]
        if moving >= 0:
            whole = request([b"CLUSTER", b"GETKEYSINSLOT", b"%d" % moving, ALL_KEYS])
            others = [shard for shard in self._topology.shards if shard.ranges and shard != self._shard]
            asked += others
            parts += [Part(shard.ranges[0][0], whole) for shard in others]

        def merge(replies: Sequence[PartReply]) -> bytes | Fanout:
            failed = first_error(replies)
            if failed is not None:
                return failed
            keys = _matching(options.get(b"match", b"*"), [reply for _, reply in replies[1:]])
            owned, migrating = _own_word(replies[0].reply)
            left = {slot for slot in self._wanted if slot > moving}
            if not left <= owned:
                self._context.refresh("SCAN")
                return go_on(self._anew, keys)
            if self._changed(replies, asked):
                return go_on(self._anew, keys)
            if left & migrating and b"type" not in options:
                return go_on(self._cursor._replace(turn=MOVING + min(left & migrating)), keys)
            return go_on(self._next, keys)

        return Fanout(parts, merge, readonly=True)

    @property
    def _wanted(self) -> set[int]:
        """The slots that this turn covers."""
        by_range = self._cursor.by_range
        ranges = [(self._cursor.slot, self._last)] if by_range else self._shard.ranges
        return {slot for first, last in ranges for slot in range(first, last + 1)}

    def _changed(self, replies: Sequence[PartReply], asked: Sequence[Shard]) -> bool:
        """Whether other servers have answered than were asked, or the cursor does not fit any more."""
        now = self._context.topology
        by_range, slot, check, _ = self._cursor
        return (
            [server for server, _ in replies] != [str(shard.master) for shard in asked]
            or now is None
            or check != check_of(now, by_range, slot)
        )

    @property
    def _anew(self) -> Cursor:
        return Cursor(True, self._cursor.slot, UNFIT, 0)

    @property
    def _next(self) -> Cursor | None:
        """The turn after this one; None at the end."""
        by_range = self._cursor.by_range
        now = self._context.topology or self._topology
        return _at(now, by_range, (self._last if by_range else self._cursor.slot) + 1)


def _of_range(keys: bytes, shard: Shard, first: int, last: int) -> bytes:
    """An array of keys without those in slots that the shard owns outside of this range."""
    elsewhere = bytearray(SLOTS)
    for begin, end in shard.ranges:
        elsewhere[begin : end + 1] = b"\1" * (end + 1 - begin)
    elsewhere[first : last + 1] = bytes(last + 1 - first)
    return array([key for key in elements(keys) if not elsewhere[slot_of(content(key))]])


def _matching(pattern: bytes, arrays: list[bytes]) -> bytes:
    """The keys of all these arrays that SCAN's MATCH lets through, as one array."""
    keys = [key for each in arrays for key in elements(each)]
    if pattern != b"*":
        keys = [key for key in keys if matches(pattern, content(key), nocase=False)]
    return array(keys)


def _own_word(reply: bytes) -> tuple[set[int], set[int]]:
    """What a server says in CLUSTER NODES of itself: the slots it owns (none as a replica), and
    those of them that it is migrating. Raises ValueError when it does not speak of itself.

    Source: https://redis.io/docs/latest/commands/cluster-nodes/
    """
    lines = (line.split() for line in reply.split(b"\n"))
    own = next((line for line in lines if len(line) >= 8 and b"myself" in line[2].split(b",")), None)
    if own is None:
        raise ValueError(f"not a reply to CLUSTER NODES: {reply[:64]!r}")
    owned = set[int]()
    migrating = set[int]()
    for field in own[8:]:
        if found := _RANGE.fullmatch(field):
            owned.update(range(int(found[1]), int(found[2] or found[1]) + 1))
        elif found := _MIGRATING.fullmatch(field):
            migrating.add(int(found[1]))
    return owned, migrating
