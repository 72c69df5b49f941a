"""SCAN over a cluster that changes meanwhile: nothing that stays is missed, and the scan ends."""

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.answers.scan import MOVING, OWN, STEPS, UNFIT, Cursor, check_of
from proxy.fanout import Fanout
from proxy.reply import array, bulk, error, verbatim
from proxy.topology import SLOTS, Topology
from tests.unit.scan_calls import (
    Known,
    after_steps,
    given_by,
    keys_in,
    merged,
    nodes,
    page_after,
    read,
    requested,
    requests,
    scan,
    shard,
    verified,
)

# --- one step --------------------------------------------------------------------------------


def test_a_scan_of_whole_shards() -> None:
    """Each shard is asked once at its lowest slot, whatever ranges it has."""
    context = Known(Topology((shard(1, (100, 200), (9000, 9999)), shard(2, (0, 99)), shard(3, (300, 400)))))
    key = "of any slot"
    cursor, asked = 0, []
    for port, slots in (2, "0-99"), (1, "9000-9999 100-200"), (3, "300 301-400 500"):
        fanout = scan(context, cursor, "MATCH", "*", "COUNT", 5)
        assert isinstance(fanout, Fanout)
        assert fanout.readonly
        assert not fanout.blocking
        assert requested(fanout) == [b"SCAN", b"0", b"MATCH", b"*", b"COUNT", b"5"]
        asked.append(fanout.parts[0].slot)
        cursor, keys = read(merged(fanout, given_by(77, key), port))
        assert keys == [key.encode()]
        fanout = scan(context, cursor, "COUNT", 6)
        assert isinstance(fanout, Fanout)
        assert requested(fanout) == [b"SCAN", b"77", b"COUNT", b"6"]
        asked.append(fanout.parts[0].slot)
        cursor, keys = read(merged(fanout, given_by(0), port))
        assert keys == []
        assert cursor
        cursor = verified(context, cursor, port, slots)
    assert asked == [0, 0, 100, 100, 300, 300]
    assert cursor == 0


def test_a_cursor_that_fits_no_more_goes_on_by_range() -> None:
    before = Known(Topology((shard(1, (0, 99), (200, 299)), shard(2, (100, 199), (400, 499)))))
    cursor, _ = read(merged(scan(before, 0), given_by(5), 1))
    after = Known(Topology((shard(1, (0, 99)), shard(2, (100, 299), (400, 499)))))
    here, there, theirs = keys_in(100, 299, 2), keys_in(400, 499, 2), keys_in(0, 99, 2)

    fanout = scan(after, cursor)
    assert isinstance(fanout, Fanout)
    assert (requested(fanout), fanout.parts[0].slot) == ([b"SCAN", b"0"], 0)
    cursor = verified(after, read(merged(fanout, given_by(0), 1))[0], 1, "0-99")

    fanout = scan(after, cursor)
    assert isinstance(fanout, Fanout)
    assert (requested(fanout), fanout.parts[0].slot) == ([b"SCAN", b"0"], 100)
    # Its keys of 400 to 499 have their turn later; those of a slot that it does not own are on the move.
    cursor, keys = read(merged(fanout, given_by(9, *here, *there, *theirs), 2))
    assert [key.decode() for key in keys] == here + theirs
    assert requested(cast(Fanout, scan(after, cursor))) == [b"SCAN", b"9"]
    cursor = verified(after, read(merged(scan(after, cursor), given_by(0), 2))[0], 2, "100-299")

    fanout = scan(after, cursor)
    assert isinstance(fanout, Fanout)
    assert (requested(fanout), fanout.parts[0].slot) == ([b"SCAN", b"0"], 400)
    cursor, keys = read(merged(fanout, given_by(0, *here, *there), 2))
    assert [key.decode() for key in keys] == there
    assert verified(after, cursor, 2, "100-299", "400-499") == 0


def test_another_server_that_answers_begins_the_range_anew() -> None:
    context = Known(Topology((shard(1, (0, SLOTS - 1)),)))
    for own in (0, 7):
        cursor, keys = read(merged(scan(context, 0), given_by(own, "a"), 2))
        assert keys == [b"a"]
        assert Cursor.of(cursor) == Cursor(True, 0, UNFIT, 0)
        assert requested(cast(Fanout, scan(context, cursor))) == [b"SCAN", b"0"]


def test_a_change_while_the_server_answers_begins_the_range_anew() -> None:
    context = Known(Topology((shard(1, (0, 99)), shard(2, (100, 199)))))
    fanout = scan(context, 0)
    context.topology = Topology((shard(1, (0, 49)), shard(2, (50, 199))))
    assert Cursor.of(read(merged(fanout, given_by(0), 1))[0]) == Cursor(True, 0, UNFIT, 0)


# --- verification ----------------------------------------------------------------------------


def through(context: Known, port: int, cursor: int = 0) -> int:
    """The cursor of a server that has no more to give."""
    return read(merged(scan(context, cursor), given_by(0), port))[0]


@pytest.mark.parametrize(
    "slots", ["", "0-98 200-299", "1-299", "0-99 200-298", "0-9 11-99 200-299", "[5->-b0]"]
)
def test_a_server_that_has_lost_slots_begins_its_range_anew(slots: str) -> None:
    context = Known(Topology((shard(1, (0, 99), (200, 299)), shard(2, (100, 199)))))
    after = verified(context, through(context, 1), 1, slots)
    assert Cursor.of(after) == Cursor(True, 0, UNFIT, 0)


def test_by_range_no_other_slots_are_of_interest() -> None:
    context = Known(Topology((shard(1, (0, 99), (200, 299)), shard(2, (100, 199)))))
    begun = int(Cursor(True, 50, UNFIT, 0))
    assert Cursor.of(verified(context, through(context, 1, begun), 1, "50-99")).slot == 100
    assert Cursor.of(verified(context, through(context, 1, begun), 1, "51-99")).slot == 50
    assert (
        Cursor.of(verified(context, through(context, 1, begun), 1, "0-299 [49->-b0] [200->-b0]")).slot == 100
    )


def test_it_has_to_be_the_one_that_was_scanned() -> None:
    context = Known(Topology((shard(1, (0, 99)), shard(2, (100, 199)))))
    cursor = through(context, 1)
    assert Cursor.of(verified(context, cursor, 3, "0-99")) == Cursor(True, 0, UNFIT, 0)
    fanout = scan(context, cursor)
    context.topology = Topology((shard(1, (0, 49)), shard(2, (50, 199))))
    assert Cursor.of(read(merged(fanout, nodes("0-99"), 1))[0]) == Cursor(True, 0, UNFIT, 0)
    assert requested(cast(Fanout, scan(context, cursor))) == [b"SCAN", b"0"]


def moving(cursor: int) -> int:
    """The slot whose keys the cursor has other masters asked for."""
    return Cursor.of(cursor).turn - MOVING


def test_keys_on_the_move_are_asked_of_the_others() -> None:
    here, there, spare = shard(2, (0, 99), (200, 299)), shard(1, (100, 199)), shard(4)
    context = Known(Topology((there, here, shard(3, (300, 399)), spare)))
    all_keys = b"2147483647"
    cursor = verified(context, through(context, 2), 2, "0-99 200-299 [3-<-b0] [7->-b0] [250->-b0] [150->-b0]")
    assert moving(cursor) == 7
    fanout = scan(context, cursor, "MATCH", "[a-b]?", "COUNT", 5)
    assert isinstance(fanout, Fanout)
    assert fanout.readonly
    assert requests(fanout) == [
        (0, [b"CLUSTER", b"NODES"]),
        (100, [b"CLUSTER", b"GETKEYSINSLOT", b"7", all_keys]),
        (300, [b"CLUSTER", b"GETKEYSINSLOT", b"7", all_keys]),
    ]
    of_others = [
        (array([bulk(key) for key in ("a1", "b", "b2", "c3", "A4")]), 1),
        (array([bulk("a5")]), 3),
    ]
    # Slot 7 has been handed over meanwhile, which makes no difference any more; slot 9 has begun to leave.
    reply = nodes("0-6 8-99 200-299 [6->-b0] [9->-b0] [250->-b0]")
    cursor, keys = read(merged(fanout, reply, 2, *of_others))
    assert keys == [b"a1", b"b2", b"a5"]
    assert moving(cursor) == 9

    fanout = scan(context, cursor)
    none = [(array([]), 1), (array([bulk("c")]), 3)]
    cursor, keys = read(merged(fanout, nodes("0-99 200-299"), 2, *none))
    assert keys == [b"c"]
    assert Cursor.of(cursor) == Cursor(False, 100, check_of(cast(Topology, context.topology), False, 100), 0)
    # Whatever is amiss, what has been given is passed on.
    anew = (int(Cursor(True, 0, UNFIT, 0)), [b"c"])
    assert read(merged(fanout, nodes("0-99 200-249 251-299"), 2, *none)) == anew
    assert read(merged(fanout, nodes("0-299"), 2, none[0], (none[1][0], 5))) == anew
    assert merged(fanout, nodes("0-299"), 2, none[0], (error("of any kind"), 3)) == error("of any kind")


def test_keys_on_the_move_are_left_out_when_a_type_is_wanted() -> None:
    """They come without their types, and a key of another would do harm."""
    context = Known(Topology((shard(1, (0, 99)), shard(2, (100, 199)))))
    fanout = scan(context, through(context, 1), "type", "hash")
    assert Cursor.of(read(merged(fanout, nodes("0-99 [7->-b0]"), 1))[0]).slot == 100


@pytest.mark.parametrize("slots", [(0,), (SLOTS - 1,), (0, SLOTS - 1)])
def test_any_slot_may_be_on_the_move(slots: tuple[int, ...]) -> None:
    context = Known(Topology((shard(1, (0, SLOTS - 1)),)))
    says = f"0-{SLOTS - 1} " + " ".join(f"[{slot}->-b0]" for slot in slots)
    cursor = verified(context, through(context, 1), 1, says)
    for slot in slots:
        assert moving(cursor) == slot
        cursor, _ = read(merged(scan(context, cursor), nodes(says), 1))
    assert cursor == 0


def test_servers_that_speak_resp3_say_the_same() -> None:
    context = Known(Topology((shard(1, (0, SLOTS - 1)),)))
    fanout = scan(context, through(context, 1))
    assert read(merged(fanout, verbatim("a0 :0@0 myself,master - 0 0 1 connected 0-16383\n", 3), 1)) == (
        0,
        [],
    )


# --- a call of several steps -----------------------------------------------------------------


def test_a_small_database_is_given_by_one_call() -> None:
    context = Known(Topology((shard(1, (100, 199), (900, 999)), shard(2, (0, 99)), shard(3, (300, 399)))))
    options = "MATCH ? COUNT 6"
    cursor, keys = page_after(
        scan(context, 0, *options.split()),
        (f"SCAN 0 {options}", given_by(7, "a"), 2),
        (f"SCAN 7 {options}", given_by(0, "b"), 2),
        ("CLUSTER NODES", nodes("0-99"), 2),
        (f"SCAN 0 {options}", given_by(0), 1),
        ("CLUSTER NODES", nodes("100-199 900-999"), 1),
        (f"SCAN 0 {options}", given_by(0, "c", "d"), 3),
        ("CLUSTER NODES", nodes("300-399"), 3),
    )
    assert cursor == 0
    assert keys == [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [("COUNT 4", 4), ("COUNT 30 count 15", 15), ("MATCH *", 10), ("COUNT 1.5", 10), ("COUNT", 10)],
)
def test_a_call_ends_once_it_has_as_many_keys_as_are_wanted(options: str, wanted: int) -> None:
    """10, unless it says so; about a COUNT that is no number a server would have complained."""
    context = Known(Topology((shard(1, (0, 99)), shard(2, (100, 199)))))
    begun, request = scan(context, 0, *options.split()), f"SCAN 0 {options}"
    names = [f"key:{number}" for number in range(wanted + 1)]
    one_less = (request, given_by(0, *names[:-2]), 1), ("CLUSTER NODES", nodes("0-99"), 1)
    cursor, keys = page_after(begun, *one_less, (request, given_by(5, *names[-2:]), 2))
    assert [key.decode() for key in keys] == names
    assert requested(cast(Fanout, scan(context, cursor))) == [b"SCAN", b"5"]

    cursor, keys = page_after(begun, (request, given_by(5, *names[:-1]), 1))
    assert cursor
    assert len(keys) == wanted


def test_a_call_ends_after_so_many_steps() -> None:
    """The next one goes on from there."""
    context = Known(Topology((shard(1, (0, 99)), shard(2, (100, 199)))))
    first = [(f"SCAN {own}", given_by(own + 1), 1) for own in range(STEPS - 1)]
    cursor, keys = page_after(scan(context, 0), *first, (f"SCAN {STEPS - 1}", given_by(STEPS, "a"), 1))
    assert keys == [b"a"]
    cursor, keys = page_after(
        scan(context, cursor),
        (f"SCAN {STEPS}", given_by(0, "b"), 1),
        ("CLUSTER NODES", nodes("0-99"), 1),
        ("SCAN 0", given_by(0, "c"), 2),
        ("CLUSTER NODES", nodes("100-199"), 2),
    )
    assert (cursor, keys) == (0, [b"b", b"c"])


def test_an_error_at_any_step_ends_the_call() -> None:
    context = Known(Topology((shard(1, (0, 99)), shard(2, (100, 199)))))
    scanned, verified = ("SCAN 0", given_by(0, "a"), 1), ("CLUSTER NODES", nodes("0-99"), 1)
    of_any_kind = error("of any kind")
    assert after_steps(scan(context, 0), scanned, ("CLUSTER NODES", of_any_kind, 1)) == of_any_kind
    assert after_steps(scan(context, 0), scanned, verified, ("SCAN 0", of_any_kind, 2)) == of_any_kind


def test_a_change_in_the_midst_of_a_call_has_it_go_on_by_range() -> None:
    context = Known(Topology((shard(1, (0, 99)), shard(2, (100, 199)))))
    low, middle, high = (keys_in(*slots)[0] for slots in ((0, 99), (100, 149), (150, 199)))
    call = after_steps(scan(context, 0), ("SCAN 0", given_by(0, low), 1), ("CLUSTER NODES", nodes("0-99"), 1))
    context.topology = Topology((shard(1, (0, 99), (150, 199)), shard(2, (100, 149))))
    cursor, keys = page_after(
        call,
        ("SCAN 0", given_by(5, middle), 2),
        ("SCAN 0", given_by(0, middle), 2),
        ("CLUSTER NODES", nodes("100-149"), 2),
        ("SCAN 0", given_by(0, low, high), 1),
        ("CLUSTER NODES", nodes("0-99 150-199"), 1),
    )
    assert cursor == 0
    assert [key.decode() for key in keys] == [low, middle, middle, high]


def test_what_has_been_found_is_given_though_nothing_more_is_served() -> None:
    context = Known(Topology((shard(1, (0, 99)), shard(2, (100, 199)))))
    call = after_steps(scan(context, 0), ("SCAN 0", given_by(0, "a"), 1), ("CLUSTER NODES", nodes("0-99"), 1))
    context.topology = Topology((shard(1, (0, 99)),))
    assert page_after(call, ("SCAN 0", given_by(5, "b"), 2)) == (0, [b"a", b"b"])


# --- what becomes of cursors -----------------------------------------------------------------


def test_a_failover_elsewhere_changes_nothing() -> None:
    context = Known(Topology((shard(1, (0, 99)), shard(2, (100, 199)))))
    cursor, _ = read(merged(scan(context, 0), given_by(5), 1))
    context.topology = Topology((shard(0, (100, 199)), shard(1, (0, 99)), shard(4)))
    assert requested(cast(Fanout, scan(context, cursor))) == [b"SCAN", b"5"]


def test_nothing_is_served_where_the_scan_goes_on() -> None:
    context = Known(Topology((shard(1, (100, 199)), shard(2, (200, 299)))))
    cursor = verified(context, read(merged(scan(context, 0), given_by(0), 1))[0], 1, "100-199")
    context.topology = Topology((shard(1, (100, 199)),))
    assert scan(context, cursor) == given_by(0)
    context.topology = Topology((shard(1, (100, 199)), shard(3, (250, 299))))
    fanout = scan(context, cursor)
    assert isinstance(fanout, Fanout)
    assert fanout.parts[0].slot == 250
    begins_anew = int(Cursor(True, 200, UNFIT, 0))
    fanout = scan(context, begins_anew)
    assert isinstance(fanout, Fanout)
    assert fanout.parts[0].slot == 250


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1x", " 1", "1.5", str(1 << 64), "0" * 30])
def test_cursors_that_are_none(cursor: str) -> None:
    context = Known(Topology((shard(1, (0, SLOTS - 1)),)))
    assert scan(context, cursor) == b"-ERR invalid cursor\r\n"


@pytest.mark.parametrize("cursor", [1, 123456789, 1 << 53, (1 << 63) - 1, (1 << 64) - 1])
def test_cursors_of_somebody_else_begin_somewhere(cursor: int) -> None:
    context = Known(Topology((shard(1, (0, SLOTS - 1)),)))
    assert requested(cast(Fanout, scan(context, cursor))) == [b"SCAN", b"0"]


def test_errors() -> None:
    assert scan(Known(None), 0) == (
        b"-CLUSTERDOWN no server of this cluster could be reached yet; the proxy keeps trying\r\n"
    )
    assert scan(Known(Topology((shard(1),))), 0) == scan(Known(None), 0)
    assert scan(Known(None)) == b"-ERR wrong number of arguments for 'scan' command\r\n"
    context = Known(Topology((shard(1, (0, SLOTS - 1)),)))
    assert merged(scan(context, 0, "COUNT", "x"), error("syntax error"), 1) == error("syntax error")
    largest = (1 << 36) - 1 - OWN
    assert merged(scan(context, 0), given_by(largest + 1, "a"), 1).startswith(
        b"-ERR the server's own SCAN cursor"
    )
    cursor, _ = read(merged(scan(context, 0), given_by(largest, "a"), 1))
    assert cursor < 1 << 63
    assert requested(cast(Fanout, scan(context, cursor))) == [b"SCAN", b"%d" % largest]
    cursor, _ = read(merged(scan(context, 0), given_by(0), 1))
    assert merged(scan(context, cursor), error("of any kind"), 1) == error("of any kind")
    with pytest.raises(ValueError, match="not a reply to CLUSTER NODES"):
        merged(scan(context, cursor), bulk("a0 10.0.0.1:90@19090 master - 0 0 1 connected 0-16383\n"), 1)


@given(
    st.builds(
        Cursor,
        st.booleans(),
        st.integers(0, SLOTS - 1),
        st.integers(0, (1 << 12) - 1),
        st.integers(0, (1 << 36) - 1),
    )
)
def test_cursors_are_numbers_of_63_bits(cursor: Cursor) -> None:
    assert Cursor.of(int(cursor)) == cursor
    assert 0 <= int(cursor) < 1 << 63


def test_a_check_tells_changes_apart() -> None:
    """Some 12 bits' worth: one change in 4095 goes unnoticed."""
    topologies = [Topology((shard(1, (0, end)), shard(2, (end + 1, SLOTS - 1)))) for end in range(1, 4001)]
    for by_range in (False, True):
        checks = [check_of(topology, by_range, 0) for topology in topologies]
        assert all(0 < check < 1 << 12 for check in checks)
        assert len(set(checks)) > 2300  # 2550 are to be expected of a good hash
