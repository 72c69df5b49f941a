"""Every command of the table: its replies, and those of one plain redis-server."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from proxy.commands import TABLE, Plan
from proxy.control import pack
from proxy.resp_values import NULLS, elements
from scripts.generate_command_docs import is_documented, notes
from tests.cluster.command_examples import KNOWN, Example, load, wrong_numbers_of_arguments
from tests.cluster.wire import Wire

EXAMPLES = load()
END = b"+RESET\r\n"

carried_out = [one for one in TABLE.commands if is_documented(one) and one.plan is not Plan.REFUSE]
refused = [one for one in TABLE.commands if is_documented(one) and one.plan is Plan.REFUSE]


def run(port: int, protocol: int, examples: Sequence[Example]) -> Iterator[list[bytes]]:
    """Each example's replies. One connection takes them all at once, unless they end it."""
    rest = list(examples)
    while rest:
        count = next((n for n, one in enumerate(rest, 1) if one.line == "QUIT"), len(rest))
        now, rest = rest[:count], rest[count:]
        with Wire(port) as wire:
            wire.send(
                b"".join(
                    pack(*words)
                    for example in now
                    for words in ((b"HELLO", protocol), (b"FLUSHALL",), *example.commands, (b"RESET",))
                )
            )
            for example in now:
                wire.replies(2)
                yield list(_until_reset(wire, 1 + example.commands.count((b"RESET",))))


def _until_reset(wire: Wire, times: int) -> Iterator[bytes]:
    """Replies before those of so many RESETs: what an example has been answered with, however much it was."""
    while True:
        try:
            reply = wire.reply()
        except EOFError:
            return
        times -= reply == END
        if not times:
            return
        yield reply


def shape(reply: bytes) -> str:
    """Its type and the types of what it consists of, each once."""
    if reply in NULLS:
        return "null"
    kind, rest = chr(reply[0]), reply[1:]
    if kind not in "*~%>":
        return kind
    consists_of = elements(b"*" + rest if kind == ">" else reply)
    return f"{kind}[{' '.join(sorted(set(map(shape, consists_of))))}]"


def agree(example: Example, ours: list[bytes], theirs: list[bytes]) -> bool:
    if example.compare == "shape":
        return ours[:-1] == theirs[:-1] and shape(ours[-1]) == shape(theirs[-1])
    return (ours == theirs) is (example.compare == "same")


def compare(port: int, reference: int, protocol: int, examples: Sequence[Example]) -> list[str]:
    """What does not agree, for people."""
    return [
        f"{example.line}   {example.compare} {example.reason}\n    {ours!r}\n    {theirs!r}"
        for example, ours, theirs in zip(
            examples, run(port, protocol, examples), run(reference, protocol, examples), strict=True
        )
        if not agree(example, ours, theirs)
    ]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("group", EXAMPLES)
def test_replies_are_those_of_a_plain_server(
    shared_proxy: ProxyProcess, cluster: RedisCluster, plain: Any, group: str, protocol: int
) -> None:
    server = cluster.master_of("k") if group == "cluster" else plain
    examples = [one for example in EXAMPLES[group] for one in (example, *example.variants())]
    wrong = compare(shared_proxy.port, server.address.port, protocol, list(dict.fromkeys(examples)))
    assert not wrong, "\n".join(wrong)


def test_every_command_has_an_example() -> None:
    shown = {one.command.name for examples in EXAMPLES.values() for one in examples}
    assert sorted({one.name for one in carried_out} & KNOWN - shown) == []


def test_what_differs_is_documented() -> None:
    differs = [
        one.command for examples in EXAMPLES.values() for one in examples if one.compare == "different"
    ]
    assert sorted(one.name for one in [*differs, *refused] if not notes(one)) == []


@pytest.mark.parametrize("protocol", [2, 3])
def test_wrong_numbers_of_arguments(shared_proxy: ProxyProcess, plain: Any, protocol: int) -> None:
    examples = [Example(b" ".join(words).decode(), (words,)) for words in wrong_numbers_of_arguments()]
    wrong = compare(shared_proxy.port, plain.address.port, protocol, examples)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("protocol", [2, 3])
def test_commands_of_newer_servers(shared_proxy: ProxyProcess, plain: Any, protocol: int) -> None:
    """What the servers do not know is unknown by their word, unless the proxy answers it itself."""
    examples = []
    for command in (one for one in carried_out if one.name not in KNOWN):
        name = tuple(command.name.upper().encode().split(b"|"))
        words = (*name, *[b"k"] * (abs(command.arity) - len(name)))
        differs = "different" if command.plan is Plan.LOCAL else "same"
        examples.append(Example(b" ".join(words).decode(), (words,), differs))
        assert differs == "same" or notes(command)
    wrong = compare(shared_proxy.port, plain.address.port, protocol, examples)
    assert not wrong, "\n".join(wrong)


def test_what_is_refused_looks_unknown_and_says_why(shared_proxy: ProxyProcess) -> None:
    with Wire(shared_proxy.port) as wire:
        for command in refused:
            name = command.name.upper().split("|")
            reply = wire.ask(*name, *["k"] * max(0, abs(command.arity) - len(name))).decode()
            starts = (
                f"-ERR unknown command '{name[0]}'",
                f"-ERR unknown subcommand '{name[-1]}'. Try {name[0]} ",
            )
            assert reply.startswith(starts)
            assert command.reason in reply
        assert wire.ask("PING") == b"+PONG\r\n"
