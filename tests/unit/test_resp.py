"""The scanners: what they find never depends on how the network cut the stream up."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.control import pack
from proxy.resp import ProtocolError, ReplyScanner, RequestScanner, split_inline

arguments = st.lists(st.binary(max_size=40), min_size=1, max_size=6)
inline = st.lists(st.text("abcXYZ019_-", min_size=1, max_size=8), min_size=1, max_size=4)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(marks)]


@given(st.lists(arguments, max_size=5), st.lists(st.integers(0, 10_000), max_size=8))
def test_requests_are_found_however_the_stream_is_cut(commands: list[list[bytes]], cuts: list[int]) -> None:
    stream = b"".join(pack(*command) for command in commands)
    scanner = RequestScanner()
    found = [request for piece in pieces(stream, cuts) for request in scanner.feed(piece)]
    assert found == commands


@given(st.lists(inline | arguments, max_size=6), st.lists(st.integers(0, 10_000), max_size=8))
def test_inline_commands_mix_with_arrays(commands: list[list[str] | list[bytes]], cuts: list[int]) -> None:
    stream = b""
    expected: list[list[bytes]] = []
    for command in commands:
        if isinstance(command[0], str):
            line = " ".join(str(word) for word in command)
            stream += line.encode() + b"\r\n"
            expected.append(line.encode().split())
        else:
            words = [word for word in command if isinstance(word, bytes)]
            stream += pack(*words)
            expected.append(words)
    scanner = RequestScanner()
    found = [request for piece in pieces(stream, cuts) for request in scanner.feed(piece)]
    assert [split_inline(one) if isinstance(one, bytes) else one for one in found] == expected


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (b"*a\r\n", "invalid multibulk length"),
        (b"*99999999999\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*1\r\n+OK\r\n", "expected '$', got '+'"),
        (b"*1\r\n$-5\r\n", "invalid bulk length"),
        (b"*2\r\n$3\r\nGET\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$abc\r\n", "invalid bulk length"),
        (b"*1\r\n$3\r\nPINGxx", "expected CRLF after bulk string"),
        (b"*" + b"1" * 70000, "too big mbulk count string"),
        (b"*1\r\n$" + b"1" * 70000, "too big bulk count string"),
        (b"x" * 70000, "too big inline request"),
    ],
)
def test_malformed_requests_are_named_as_redis_names_them(stream: bytes, text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        RequestScanner().feed(stream)
    assert str(caught.value) == text


def test_empty_lines_and_arrays_are_passed_over() -> None:
    assert RequestScanner().feed(b"\r\n\n*0\r\n*-1\r\nPING\r\n") == [b"PING\r\n"]


def test_a_request_larger_than_the_limit_is_refused_before_it_has_come() -> None:
    scanner = RequestScanner(query_length=1000)
    with pytest.raises(ProtocolError, match="too big request"):
        scanner.feed(b"*2\r\n$3\r\nGET\r\n$2000\r\n")


scalars = st.one_of(
    st.sampled_from(
        [b"+OK\r\n", b"-ERR no\r\n", b":-12\r\n", b"$-1\r\n", b"*-1\r\n", b"_\r\n", b"#t\r\n", b",3.5\r\n"]
    ),
    st.sampled_from(
        [b"(3492890328409238509324850943850943825024385\r\n", b"=7\r\ntxt:abc\r\n", b"!5\r\nERR x\r\n"]
    ),
    st.binary(max_size=300).map(lambda body: b"$%d\r\n%b\r\n" % (len(body), body)),
)


def nested(children: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.one_of(
        st.tuples(st.sampled_from(b"*~>"), st.lists(children, max_size=4)).map(
            lambda pair: b"%c%d\r\n" % (pair[0], len(pair[1])) + b"".join(pair[1])
        ),
        st.lists(st.tuples(children, children), max_size=3).map(
            lambda pairs: b"%%%d\r\n" % len(pairs) + b"".join(a + b for a, b in pairs)
        ),
        st.tuples(children, children, children).map(lambda three: b"|1\r\n" + b"".join(three)),
    )


replies = st.recursive(scalars, nested, max_leaves=12)


@given(st.lists(replies, max_size=5), st.lists(st.integers(0, 10_000), max_size=8))
def test_replies_of_every_type_are_found_however_the_stream_is_cut(
    expected: list[bytes], cuts: list[int]
) -> None:
    scanner = ReplyScanner()
    found = [reply for piece in pieces(b"".join(expected), cuts) for reply in scanner.feed(piece)]
    assert found == expected


def test_nesting_may_be_deep() -> None:
    reply = b"*1\r\n" * 100_000 + b":1\r\n"
    assert ReplyScanner().feed(reply) == [reply]


@pytest.mark.parametrize(
    "stream", [b"hello\r\n", b"$x\r\n", b"*-2\r\n", b"$3\r\nabcXY", b"*99999999999999999999999\r\n"]
)
def test_what_is_no_reply_is_refused(stream: bytes) -> None:
    with pytest.raises(ProtocolError):
        ReplyScanner().feed(stream)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"get a\r\n", [b"get", b"a"]),
        (b"  set   a  'b c' \r\n", [b"set", b"a", b"b c"]),
        (b'set a "\\x41\\n\\"\\q"\n', [b"set", b"a", b'A\n"q']),
        (b"set a 'it\\'s'\n", [b"set", b"a", b"it's"]),
        (b'set a ""\n', [b"set", b"a", b""]),
        (b'set a "b\n', None),
        (b'set a "b"c\n', None),
        (b"   \r\n", []),
        (b"\v\fget a\fb\v\n", [b"get", b"a\fb\v"]),
        (b"get 'a'\vb\n", [b"get", b"a", b"b"]),
    ],
)
def test_inline_quoting_is_that_of_redis(line: bytes, words: list[bytes] | None) -> None:
    assert split_inline(line) == words
