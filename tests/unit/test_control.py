"""The blocking connection, towards servers that do not behave."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from proxy.address import Address
from proxy.control import Connection, ReplyError, addresses_of


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[Address]:
    """A listener whose one client is answered by ``answer``, then hung up on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                answer(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Address("127.0.0.1", listener.getsockname()[1])
        thread.join(10)


def say(*parts: bytes) -> Callable[[socket.socket], None]:
    def answer(client: socket.socket) -> None:
        client.recv(1000)
        for part in parts:
            client.sendall(part)

    return answer


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "sent what is not RESP"),
        (b"$10\r\nhalf", "closed the connection"),
        (b"", "closed the connection"),
    ],
)
def test_a_bad_answer_is_an_os_error_that_names_the_server(answer: bytes, complaint: str) -> None:
    with (
        server(say(answer)) as address,
        Connection.open(address, dial_timeout=5, timeout=5) as connection,
        pytest.raises(OSError, match=f"{address}: {complaint}"),
    ):
        connection.call("PING")


def test_replies_may_come_in_pieces() -> None:
    with server(say(b"*2\r\n$3\r", b"\nfoo\r\n:", b"7\r\n-ERR no", b"\r\n")) as address:
        with Connection.open(address, dial_timeout=5, timeout=5) as connection:
            first, second = connection.pipeline([("A",), ("B",)])
        assert first == [b"foo", 7]
        assert isinstance(second, ReplyError)
        assert str(second) == "ERR no"


def test_silence_ends_with_the_timeout() -> None:
    done = threading.Event()

    def wait(_: socket.socket) -> None:
        done.wait(10)

    with server(wait) as address:
        with (
            Connection.open(address, dial_timeout=5, timeout=0.1) as connection,
            pytest.raises(TimeoutError, match=f"{address}: no answer in time"),
        ):
            connection.call("PING")
        done.set()


def test_a_refused_password_is_not_repeated() -> None:
    with (
        server(say(b"-WRONGPASS invalid username-password pair\r\n")) as address,
        pytest.raises(ReplyError, match="WRONGPASS") as caught,
    ):
        Connection.open(address, dial_timeout=5, timeout=5, password="s3cret")
    assert "s3cret" not in str(caught.value)


def test_nobody_there_is_said_with_the_address() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", held.getsockname()[1])
        with pytest.raises(OSError, match=f"{address}: Connection refused"):
            Connection.open(address, dial_timeout=5)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".test", ".."])
def test_a_name_that_means_nothing_is_an_os_error(host: str) -> None:
    with pytest.raises(OSError, match=host[:20]):
        addresses_of(Address(host, 6379))
