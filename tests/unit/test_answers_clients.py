"""CLIENT: this connection, and by the workers' sessions the others."""

import time

import pytest

from proxy.answers import Client, SessionRow
from proxy.answers.registry import REPLIES_OFF, REPLIES_ON, REPLIES_SKIP
from tests.unit.context import StubContext, StubPlane, cluster_config, reply_to, user


def row(id_: int, **values: object) -> SessionRow:
    """A session; values are of its client, or of the row."""
    client = Client(id_, f"10.0.0.{id_}:1000", "10.1.0.1:6379")
    fields: dict[str, object] = {
        "idle": 0.0,
        "queued": 0,
        "input": 0,
        "output": 0,
        "multi": -1,
        "watching": False,
        "blocked": False,
        "command": "get",
    }
    for name, value in values.items():
        if name in fields:
            fields[name] = value
        else:
            setattr(client, name, value)
    return SessionRow(client, **fields)  # type: ignore[arg-type]


ME = 5


@pytest.fixture
def context() -> StubContext:
    """Five sessions of two workers; the last is the client that asks."""
    me = row(ME, command="client|list")
    return StubContext(
        cluster_config(client_users=(user("bob", "x"),)),
        planes=[
            StubPlane([row(1), row(4, subscriptions=2)]),
            StubPlane([row(2, user="bob"), row(3, blocked=True), me]),
        ],
    )


@pytest.fixture(params=[2, 3])
def client(request: pytest.FixtureRequest, context: StubContext) -> Client:
    me = context.planes[1].rows[-1].client
    me.protocol = request.param
    return me


def ask(client: Client, context: StubContext, line: str) -> bytes:
    return reply_to(client, context, line.encode().split(b" "))


def lines(reply: bytes) -> list[dict[str, str]]:
    """What a reply to CLIENT LIST tells, one session after the other."""
    text = reply.partition(b"\r\n")[2].removesuffix(b"\r\n").removeprefix(b"txt:").decode()
    return [dict(word.split("=", 1) for word in line.split(" ")) for line in text.splitlines()]


def ids(reply: bytes) -> list[int]:
    return [int(line["id"]) for line in lines(reply)]


# --- this connection ---------------------------------------------------------------------------


def test_setinfo(client: Client, context: StubContext) -> None:
    assert ask(client, context, "CLIENT SETINFO lib-name redis-py(x)") == b"+OK\r\n"
    assert ask(client, context, "client setinfo LIB-VER 8.1.0") == b"+OK\r\n"
    assert (client.lib_name, client.lib_ver) == ("redis-py(x)", "8.1.0")
    assert reply_to(client, context, [b"CLIENT", b"SETINFO", b"Lib-Name", b"a b"]) == (
        b"-ERR Lib-Name cannot contain spaces, newlines or special characters.\r\n"
    )
    assert ask(client, context, "CLIENT SETINFO lib-age 1") == b"-ERR Unrecognized option 'lib-age'\r\n"
    assert ask(client, context, "CLIENT SETINFO lib-name") == (
        b"-ERR wrong number of arguments for 'client|setinfo' command\r\n"
    )
    assert (client.lib_name, client.lib_ver) == ("redis-py(x)", "8.1.0")
    assert ask(client, context, "CLIENT SETINFO lib-name ") == b"+OK\r\n"
    assert client.lib_name == ""


def test_reply(client: Client, context: StubContext) -> None:
    assert ask(client, context, "CLIENT REPLY skip") == b""
    assert client.replies == REPLIES_SKIP
    assert ask(client, context, "CLIENT REPLY ON") == b"+OK\r\n"
    assert client.replies == REPLIES_ON
    assert ask(client, context, "CLIENT REPLY OFF") == b""
    assert ask(client, context, "CLIENT REPLY SKIP") == b""
    assert client.replies == REPLIES_OFF
    assert ask(client, context, "CLIENT REPLY x") == b"-ERR syntax error\r\n"


def test_info(client: Client, context: StubContext) -> None:
    client.name, client.lib_name, client.user = "me", "lib", "bob"
    client.created = time.monotonic() - 60
    reply = ask(client, context, "CLIENT INFO")
    assert reply.startswith(b"=" if client.protocol == 3 else b"$")
    (fields,) = lines(reply)
    assert (fields["addr"], fields["laddr"]) == ("10.0.0.5:1000", "10.1.0.1:6379")
    assert (fields["name"], fields["lib-name"], fields["lib-ver"]) == ("me", "lib", "")
    assert fields["age"] in ("60", "61")
    assert (fields["flags"], fields["resp"], fields["user"]) == ("N", str(client.protocol), "bob")
    assert (fields["cmd"], fields["id"]) == ("client|info", "5")
    client.listener = "/run/proxy.sock:0"
    assert lines(ask(client, context, "CLIENT INFO"))[0]["flags"] == "U"


@pytest.mark.parametrize("sub", ["MAINT_NOTIFICATIONS ON moving-endpoint-type internal-ip", "FOO"])
def test_subcommands_that_nobody_knows(client: Client, context: StubContext, sub: str) -> None:
    assert ask(client, context, f"Client {sub}").decode() == (
        f"-ERR unknown subcommand '{sub.split(maxsplit=1)[0]}'. Try CLIENT HELP.\r\n"
    )


# --- LIST --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("CLIENT LIST", [1, 2, 3, 4, 5]),
        ("CLIENT LIST TYPE normal", [1, 2, 3, 5]),
        ("CLIENT LIST type PUBSUB", [4]),
        ("CLIENT LIST TYPE master", []),
        ("CLIENT LIST TYPE replica", []),
        ("CLIENT LIST ID 4 99 2 4 -1", [4, 2, 4]),
        ("CLIENT LIST ID 99", []),
    ],
)
def test_list(client: Client, context: StubContext, line: str, found: list[int]) -> None:
    reply = ask(client, context, line)
    assert reply.startswith(b"=" if client.protocol == 3 else b"$")
    assert ids(reply) == found


def test_list_tells_of_other_clusters_nothing(client: Client, context: StubContext) -> None:
    context.cluster = 1
    assert ids(ask(client, context, "CLIENT LIST")) == []


def test_a_line_of_the_list(client: Client, context: StubContext) -> None:
    values = {"idle": 2.9, "input": 30, "output": 40, "multi": 3, "watching": True, "blocked": True}
    context.planes[0].rows = [row(9, **values, command="", subscriptions=2, closing=True, name="n")]
    (fields,) = lines(ask(client, context, "CLIENT LIST ID 9"))
    assert {name: fields[name] for name in ("idle", "qbuf", "obl", "omem", "tot-mem", "multi", "watch")} == {
        "idle": "2",
        "qbuf": "30",
        "obl": "40",
        "omem": "40",
        "tot-mem": "70",
        "multi": "3",
        "watch": "1",
    }
    assert (fields["flags"], fields["sub"], fields["cmd"], fields["events"]) == ("Pxbc", "2", "NULL", "rw")


def test_a_reply_that_comes_later_is_in_the_protocol_of_its_time(context: StubContext) -> None:
    from proxy.answers import Pending, answer

    client = context.planes[1].rows[-1].client
    pending = answer(client, context, [b"CLIENT", b"LIST"])
    assert isinstance(pending, Pending)
    client.protocol = 3
    replies: list[bytes] = []
    pending.start(replies.append)
    assert replies[0].startswith(b"$")


# --- KILL --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "killed", "reply"),
    [
        ("CLIENT KILL 10.0.0.2:1000", [2], "+OK"),
        ("CLIENT KILL 10.0.0.9:1000", [], "-ERR No such client"),
        ("CLIENT KILL ID 3", [3], ":1"),
        ("CLIENT KILL ID 99", [], ":0"),
        ("CLIENT KILL ID 5", [], ":0"),
        ("CLIENT KILL TYPE pubsub", [4], ":1"),
        ("CLIENT KILL TYPE normal", [1, 2, 3], ":3"),
        ("CLIENT KILL TYPE slave", [], ":0"),
        ("CLIENT KILL USER bob", [2], ":1"),
        ("CLIENT KILL user bob ADDR 10.0.0.1:1000", [], ":0"),
        ("CLIENT KILL LADDR 10.1.0.1:6379 skipme YES", [1, 2, 3, 4], ":4"),
        ("CLIENT KILL LADDR 10.1.0.2:6379", [], ":0"),
        ("CLIENT KILL MAXAGE 50", [], ":0"),
    ],
)
def test_kill(client: Client, context: StubContext, line: str, killed: list[int], reply: str) -> None:
    assert ask(client, context, line).decode() == f"{reply}\r\n"
    assert sorted(id_ for plane in context.planes for id_ in plane.killed) == killed
    assert not client.closing


@pytest.mark.parametrize(
    ("line", "killed", "reply"),
    [
        ("CLIENT KILL 10.0.0.5:1000", [], "+OK"),
        ("CLIENT KILL ID 5 SKIPME no", [], ":1"),
        ("CLIENT KILL TYPE normal SKIPME NO", [1, 2, 3], ":4"),
    ],
)
def test_who_kills_itself_is_answered_first(
    client: Client, context: StubContext, line: str, killed: list[int], reply: str
) -> None:
    assert ask(client, context, line).decode() == f"{reply}\r\n"
    assert sorted(id_ for plane in context.planes for id_ in plane.killed) == killed
    assert client.closing


def test_kill_by_age(client: Client, context: StubContext) -> None:
    context.planes[0].rows[0].client.created -= 50.5
    assert ask(client, context, "CLIENT KILL MAXAGE 50") == b":1\r\n"
    assert context.planes[0].killed == [1]
    assert ask(client, context, "CLIENT KILL MAXAGE 0") == b"-ERR maxage should be greater than 0\r\n"
    assert ask(client, context, "CLIENT KILL MAXAGE x").startswith(b"-ERR maxage is not an integer")


def test_kill_of_a_user_that_only_redis_has(client: Client, context: StubContext) -> None:
    """Where there are users and no client_password, there is no default user."""
    assert ask(client, context, "CLIENT KILL USER default") == b"-ERR No such user 'default'\r\n"
    context.config = cluster_config()
    assert ask(client, context, "CLIENT KILL USER default") == b":3\r\n"


# --- PAUSE and UNBLOCK -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "pause"),
    [
        ("CLIENT PAUSE 1500", (0, 1.5, False)),
        ("CLIENT PAUSE 1500 all", (0, 1.5, False)),
        ("CLIENT PAUSE 1 WRITE", (0, 0.001, True)),
        ("CLIENT PAUSE 9223372036854775807 WRITE", (0, 1e9, True)),
        ("CLIENT UNPAUSE", (0, 0, False)),
    ],
)
def test_pause(client: Client, context: StubContext, line: str, pause: tuple[int, float, bool]) -> None:
    assert ask(client, context, line) == b"+OK\r\n"
    assert [plane.pauses for plane in context.planes] == [[pause], [pause]]


def test_a_pause_of_no_time_ends_none(client: Client, context: StubContext) -> None:
    assert ask(client, context, "CLIENT PAUSE 0") == b"+OK\r\n"
    assert [plane.pauses for plane in context.planes] == [[], []]


@pytest.mark.parametrize(
    ("line", "asked", "reply"),
    [
        ("CLIENT UNBLOCK 3", (3, False), b":1\r\n"),
        ("CLIENT UNBLOCK 3 error", (3, True), b":1\r\n"),
        ("CLIENT UNBLOCK 1 TIMEOUT", (1, False), b":0\r\n"),
        ("CLIENT UNBLOCK 99", (99, False), b":0\r\n"),
        ("CLIENT UNBLOCK -3", None, b":0\r\n"),
    ],
)
def test_unblock(
    client: Client, context: StubContext, line: str, asked: tuple[int, bool] | None, reply: bytes
) -> None:
    assert ask(client, context, line) == reply
    assert [plane.unblocked for plane in context.planes] == [[asked] if asked else []] * 2
