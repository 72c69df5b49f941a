"""SLOWLOG and LATENCY."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.answers import Client, SlowRecord, slow_arguments
from proxy.reply import array, bulk
from tests.unit.context import StubContext, reply_to

CLIENT = Client(7, "127.0.0.1:5555", "127.0.0.1:6379")


def record(number: int) -> SlowRecord:
    return SlowRecord(number, 1700000000.9, 1500 + number, [b"GET", b"a"], "10.0.0.1:1000", "me")


def ask(context: StubContext, line: str, protocol: int = 2) -> bytes:
    CLIENT.protocol = protocol
    return reply_to(CLIENT, context, line.encode().split())


# --- SLOWLOG -----------------------------------------------------------------------------------


def request(*args: bytes) -> bytes:
    return array([bulk(arg) for arg in args])


@pytest.mark.parametrize(
    ("data", "args"),
    [
        (request(b"GET", b"a"), [b"GET", b"a"]),
        (request(b"SET", b"a", b"\r\n$5\r\n"), [b"SET", b"a", b"\r\n$5\r\n"]),
        (request(b"SET", b"a", b""), [b"SET", b"a", b""]),
        (request(b"ECHO", b"x" * 128), [b"ECHO", b"x" * 128]),
        (request(b"ECHO", b"x" * 130), [b"ECHO", b"x" * 128 + b"... (2 more bytes)"]),
        (request(*[b"x"] * 32), [b"x"] * 32),
        (request(*[b"x"] * 33), [*[b"x"] * 31, b"... (2 more arguments)"]),
        # What follows is cut off.
        (request(b"SET", b"a", b"x" * 300)[:256], [b"SET", b"a", b"x" * 128 + b"... (172 more bytes)"]),
        (b"*3\r\n$3\r\nSET\r\n$5\r\nab", [b"SET", b"ab... (3 more bytes)", b"... (1 more arguments)"]),
        (b"*3\r\n$3\r\nSET\r\n$5", [b"SET", b"... (2 more arguments)"]),
        (b"*3\r\n$3\r\nSET\r", [b"SET", b"... (2 more arguments)"]),
        (b"*40\r\n" + b"$1\r\nx\r\n" * 35, [*[b"x"] * 31, b"... (9 more arguments)"]),
        (b"GET  a\r\n", [b"GET", b"a"]),
    ],
)
def test_arguments(data: bytes, args: list[bytes]) -> None:
    assert slow_arguments(data) == args


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=40), st.integers(0, 400))
def test_arguments_of_anything_cut_anywhere(args: list[bytes], end: int) -> None:
    found = slow_arguments(request(*args)[:end])
    assert len(found) <= 32
    assert all(len(arg) <= 128 + 30 for arg in found)
    for arg, whole in zip(found[:-2], args, strict=False):
        assert arg == whole or arg.startswith(whole[:128])


@given(st.binary(max_size=100))
def test_arguments_of_any_bytes(data: bytes) -> None:
    slow_arguments(data)


def test_the_log_is_told_from_its_end() -> None:
    context = StubContext(slow=[record(number) for number in range(12)])

    def numbers(line: str) -> list[int]:
        return [int(entry.split(b"\r\n")[0]) for entry in ask(context, line).split(b"*6\r\n:")[1:]]

    assert numbers("SLOWLOG GET") == list(range(11, 1, -1))
    assert numbers("SLOWLOG GET 3") == [11, 10, 9]
    assert numbers("SLOWLOG GET 0") == []
    assert numbers("SLOWLOG GET -1") == list(range(11, -1, -1))
    assert ask(context, "SLOWLOG LEN") == b":12\r\n"
    assert ask(context, "SLOWLOG RESET") == b"+OK\r\n"
    assert ask(context, "SLOWLOG LEN") == b":0\r\n"


def test_an_entry() -> None:
    assert ask(StubContext(slow=[record(4)]), "SLOWLOG GET") == (
        b"*1\r\n*6\r\n:4\r\n:1700000000\r\n:1504\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n"
        b"$13\r\n10.0.0.1:1000\r\n$2\r\nme\r\n"
    )


# --- LATENCY -----------------------------------------------------------------------------------

HISTOGRAMS = {
    "get": (5, [(100, 0), (250, 2), (500, 2), (1000, 4)]),
    "config|get": (1, [(100, 1), (250, 1)]),
    "config|set": (0, [(100, 0)]),
    "set": (2, [(100, 2)]),
}


def test_histogram() -> None:
    context = StubContext(histograms=HISTOGRAMS)
    assert ask(context, "LATENCY HISTOGRAM get nonesuch") == (
        b"*2\r\n$3\r\nget\r\n*4\r\n$5\r\ncalls\r\n:5\r\n$14\r\nhistogram_usec\r\n"
        b"*4\r\n:250\r\n:2\r\n:1000\r\n:4\r\n"
    )
    assert ask(context, "LATENCY HISTOGRAM GET", 3) == (
        b"%1\r\n$3\r\nget\r\n%2\r\n$5\r\ncalls\r\n:5\r\n$14\r\nhistogram_usec\r\n"
        b"%2\r\n:250\r\n:2\r\n:1000\r\n:4\r\n"
    )
    assert ask(context, "LATENCY HISTOGRAM", 3).startswith(b"%3\r\n$3\r\nget\r\n")
    assert ask(context, "LATENCY HISTOGRAM config set Config|Get", 3).startswith(
        b"%2\r\n$10\r\nconfig|get\r\n"
    )
    assert ask(context, "LATENCY HISTOGRAM nonesuch", 3) == b"%0\r\n"


def test_there_are_no_events() -> None:
    context = StubContext()
    assert ask(context, "LATENCY LATEST") == ask(context, "LATENCY HISTORY command") == b"*0\r\n"
    assert ask(context, "LATENCY RESET") == ask(context, "LATENCY RESET a b") == b":0\r\n"
    assert ask(context, "LATENCY GRAPH x") == b"-ERR No samples available for event 'x'\r\n"
    assert ask(context, "LATENCY DOCTOR", 3).startswith(b"=")
