"""Whether the chaos run's checker sees what a proxy must not do, and does not see what it may."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.control import pack
from tests.chaos.checker import VIOLATIONS, Circumstances, Verdict, Window, check
from tests.chaos.evidence import Evidence, Execution, commands, written
from tests.chaos.final import Final
from tests.chaos.history import Closed, History, Kind, Outcome, Read, Write, number_in


@dataclass
class Run:
    """One in which all goes well: a register, a stream and a counter, three writes each, a second apart."""

    history: History = field(default_factory=History)
    executed: list[Execution] = field(default_factory=list)
    """By one server."""
    elsewhere: list[Execution] = field(default_factory=list)
    """By another."""
    final: Final = field(default_factory=Final)
    circumstances: Circumstances = field(default_factory=Circumstances)

    def __post_init__(self) -> None:
        for number in (1, 2, 3):
            at = float(number)
            for key, kind in (("r", Kind.REGISTER), ("s", Kind.STREAM), ("n", Kind.COUNTER)):
                reply = {"r": "OK", "s": f"{number}000-0", "n": str(number)}[key]
                self.history.writes.append(Write(key, number, kind, at, at + 0.1, Outcome.OK, reply))
            self.executed += [
                Execution("r", number, f"{number}000"),
                Execution("s", number, f"{number}000-0"),
                Execution("n", 0, ""),
            ]
        self.final.last = {"r": 3, "n": 3}
        self.final.entries["s"] = {number: f"{number}000-0" for number in (1, 2, 3)}

    def write(self, key: str, number: int) -> Write:
        return next(one for one in self.history.writes if (one.key, one.number) == (key, number))

    def verdict(self) -> Verdict:
        evidence = Evidence()
        evidence.add("one", [self.executed])
        evidence.add("another", [self.elsewhere])
        return check(self.history, evidence, self.final, self.circumstances)

    def found(self) -> dict[str, int]:
        return {name: len(found) for name, found in self.verdict().violations.items() if found}


def test_nothing_is_found_where_all_is_well() -> None:
    run = Run()
    run.history.reads += [Read("r", 1, 1.2, 1.3, 1, 1), Read("r", 3, 5.0, 5.1)]
    verdict = run.verdict()
    assert verdict.clean
    assert not verdict.lost_by_cluster
    assert verdict.counts == {"requests": 0, "reads": 2, "writes acknowledged": 9}


def forget_write(run: Run) -> None:
    run.executed.remove(Execution("r", 2, "2000"))


def refuse_what_is_executed(run: Run) -> None:
    run.write("r", 2).outcome = Outcome.REFUSED


def execute_at_two_servers(run: Run) -> None:
    run.elsewhere.append(Execution("r", 2, "2001"))


def execute_twice_at_one_server(run: Run) -> None:
    run.executed.append(Execution("r", 3, "3000"))


def execute_at_another_time(run: Run) -> None:
    run.executed[0] = Execution("r", 1, "2500")


def execute_in_another_order(run: Run) -> None:
    run.executed.reverse()


def lose_an_entry(run: Run) -> None:
    del run.final.entries["s"][2]


def lose_the_last_value(run: Run) -> None:
    run.final.last["r"] = 2


def lose_a_count(run: Run) -> None:
    run.final.last["n"] = 2


def count_back(run: Run) -> None:
    run.write("n", 3).reply = "2"
    run.final.last["n"] = 2


def count_more_than_was_asked(run: Run) -> None:
    run.write("n", 3).reply = "4"
    run.final.last["n"] = 4


def count_what_was_refused(run: Run) -> None:
    run.write("n", 2).outcome = Outcome.REFUSED


def read_nothing(run: Run) -> None:
    run.history.reads.append(Read("r", 0, 5.0, 5.1))


def read_an_older_value(run: Run) -> None:
    run.history.reads.append(Read("r", 2, 5.0, 5.1))


def read_older_than_another_read(run: Run) -> None:
    run.write("r", 3).outcome = Outcome.UNKNOWN
    run.history.reads += [Read("r", 3, 5.0, 5.1), Read("r", 2, 5.2, 5.3)]


def read_older_than_this_connection_knows(run: Run) -> None:
    run.history.reads.append(Read("r", 1, 2.0, 2.1, least=2))


def read_what_is_sent_later(run: Run) -> None:
    run.history.reads.append(Read("r", 2, 2.0, 2.1, most=1))


def read_what_nobody_wrote(run: Run) -> None:
    run.history.reads.append(Read("r", 4, 5.0, 5.1))


def tell_another_entry(run: Run) -> None:
    run.write("s", 2).reply = "3000-0"
    run.final.entries["s"][2] = "3000-0"


def close(run: Run) -> None:
    run.history.closed.append(Closed(1, 2.0, "reset"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (forget_write, "acknowledged, never executed"),
        (refuse_what_is_executed, "refused, executed all the same"),
        (execute_at_two_servers, "executed twice"),
        (execute_twice_at_one_server, "executed out of order"),
        (execute_at_another_time, "executed out of order"),
        (execute_in_another_order, "executed out of order"),
        (lose_an_entry, "lost without a failover"),
        (lose_the_last_value, "lost without a failover"),
        (lose_a_count, "lost without a failover"),
        (count_back, "lost without a failover"),
        (count_more_than_was_asked, "executed twice"),
        (count_what_was_refused, "executed twice"),
        (read_nothing, "read of an older value without a failover"),
        (read_an_older_value, "read of an older value without a failover"),
        (read_older_than_another_read, "read of an older value without a failover"),
        (read_older_than_this_connection_knows, "read of an older value without a failover"),
        (read_what_is_sent_later, "read of what was never written"),
        (read_what_nobody_wrote, "read of what was never written"),
        (tell_another_entry, "reply to another request"),
        (close, "connection closed without a reason"),
    ],
)
def test_a_violation_is_found(change: Callable[[Run], None], expected: str) -> None:
    run = Run()
    change(run)
    assert set(run.found()) == {expected}
    assert expected in VIOLATIONS


@pytest.mark.parametrize("change", [lose_an_entry, lose_the_last_value, lose_a_count, count_back])
def test_what_a_failover_loses_is_the_cluster_s(change: Callable[[Run], None]) -> None:
    run = Run()
    change(run)
    run.circumstances.failovers.append(Window(4, 6))
    verdict = run.verdict()
    assert verdict.clean
    assert verdict.lost_by_cluster == {"acknowledged writes": 1}


def test_a_failover_at_another_time_explains_nothing() -> None:
    run = Run()
    lose_an_entry(run)
    run.circumstances.failovers.append(Window(60, 62))
    assert run.found() == {"lost without a failover": 1}


def test_older_values_after_a_failover_are_the_cluster_s() -> None:
    run = Run()
    read_an_older_value(run)
    run.circumstances.failovers.append(Window(4, 6))
    assert run.verdict().lost_by_cluster == {"older values read": 1}


def test_an_unknown_outcome_may_be_either_and_late() -> None:
    run = Run()
    for number in (1, 2):
        run.write("r", number).outcome = Outcome.UNKNOWN
        run.write("n", number).outcome = Outcome.UNKNOWN
    run.executed.remove(Execution("r", 1, "1000"))
    run.executed.remove(Execution("r", 2, "2000"))
    run.elsewhere.append(Execution("r", 2, "9000"))
    run.write("n", 3).reply = "1"
    run.final.last["n"] = 1
    assert run.found() == {}


def test_a_connection_may_end_when_it_is_killed_or_its_proxy_is() -> None:
    run = Run()
    close(run)
    run.circumstances.interruptions[0].append(Window(1, 3))
    assert run.found() == {"connection closed without a reason": 1}, "that was another proxy"
    run.circumstances.interruptions[1].append(Window(1, 3))
    assert run.found() == {}


def test_a_value_of_another_key_is_seen() -> None:
    assert number_in("r:1", b"r:1=12") == 12
    assert number_in("r:1", None) == 0
    with pytest.raises(ValueError, match="was read from r:2"):
        number_in("r:2", b"r:1=12")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["SET", "k", "k=3", "PXAT", "1700"], [Execution("k", 3, "1700")]),
        (["MSET", "k", "k=3", "l", "l=4"], [Execution("k", 3, ""), Execution("l", 4, "")]),
        (["XADD", "k", "17-0", "value", "k=3"], [Execution("k", 3, "17-0")]),
        (["INCR", "k"], [Execution("k", 0, "")]),
        (["SELECT", "0"], []),
        (["MULTI"], []),
    ],
)
def test_what_commands_of_a_file_have_written(words: Sequence[str], expected: list[Execution]) -> None:
    assert list(written([word.encode() for word in words])) == expected


def test_a_file_that_a_server_left_unfinished(tmp_path: Path) -> None:
    whole = pack("SET", "k", "k=1") + pack("INCR", "n")
    file = tmp_path / "appendonly.aof"
    for cut in range(1, len(pack("INCR", "n"))):
        file.write_bytes(whole[:-cut])
        assert list(commands(file)) == [[b"SET", b"k", b"k=1"]]
