"""Subscriptions: what sessions receive and are told while servers come, go and change their slots."""

import pytest

from proxy.pubsub import MOST_REDIRECTIONS, Kind
from proxy.slots import slot_of
from tests.unit.pubsub_servers import (
    CHANNEL,
    EVENTS,
    OTHER,
    SPARE,
    THIRD,
    A,
    B,
    C,
    Servers,
    Told,
    frame,
    new_client,
    subscribe,
)


@pytest.fixture
def servers() -> Servers:
    return Servers([A, B, C])


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
