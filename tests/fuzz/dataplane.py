"""Drives a whole data plane with spoilt dialogues from both sides.

    python -m tests.fuzz.dataplane [--seconds N] [--rounds N] [--seed N]

Each round is a worker of its own, with socket pairs for its clients and servers, all moved on in the
worker's thread, a step a turn: a seed gives the same round again, as far as time does. What must hold:

- the process does not end, and no failure is logged;
- servers get nothing but requests, in RESP;
- no client hears of another's keys;
- clients that say nothing wrong get their replies, in order, unless servers talk nonsense;
- when all have gone, no session, no byte of a buffer and no descriptor is left.

What does not is told with its seed, and the exit status is 1. A process that ends otherwise has named its
round in tests/fuzz/build/round.
"""

import argparse
import faulthandler
import gc
import itertools
import logging
import os
import random
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from proxy.address import Address
from proxy.answers import Facts, SlowRecord
from proxy.commands import TABLE
from proxy.config import ClusterConfig, Config, ProxyConfig
from proxy.pubsub import Tally
from proxy.topology import Shard, Topology
from proxy.worker import Worker
from tests.fuzz.fake_clients import FakeClient, SteadyClient
from tests.fuzz.fake_servers import NAMES, FakeServer, Manners
from tests.unit.context import FACTS

LAST_ROUND = Path(__file__).parent / "build" / "round"
SLOTS = 16384
PATIENCE = 10.0
"""Seconds in which a round must come to its end once nobody does anything strange any more."""
MOST_STEPS = 400
LIMIT = 200
"""ms that a server may take."""


PLACE = re.compile(r'File ".*", line [0-9]+')
"""Where a failure was raised: what is raised at one place is of one kind."""


class Failures(logging.Handler):
    """Failures that were logged, with their traces."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
        self.found.append(f"{record.getMessage()}\n{trace}")


class Dials:
    """Connections to servers that the worker has asked for: ``proxy.dialer.Dialer`` without servers."""

    def __init__(self) -> None:
        self.wanted: list[tuple[int, Callable[[int, int], None], Callable[[str], None]]] = []
        """Of each: the protocol, and what to call."""

    def dial(
        self,
        _cluster: ClusterConfig,
        _server: str,
        protocol: int,
        *,
        pinned: bool,
        opened: Callable[[int, int], None],
        refused: Callable[[str], None],
    ) -> None:
        self.wanted.append((protocol, lambda fd, peer: opened(fd, peer if pinned else 0), refused))


class SteppedWorker(Worker):
    """In whose thread something is done in every turn."""

    def __init__(self, config: Config, dials: Dials, control: "Round") -> None:
        super().__init__(0, 1, config, control=control, dialer=dials, tallies=[Tally()])  # type: ignore[arg-type]
        self._step = control.step

    def mail(self) -> None:
        super().mail()
        if self._step():
            self.post(lambda: None)
        else:
            self.plane.stop()

    def run(self) -> None:
        """Until there is no step any more."""
        self.post(lambda: None)
        self.plane.run()
        os.close(self._mailbox)  # a process's workers keep theirs


def some_config(rng: random.Random) -> Config:
    """Limits so small that they are met."""
    proxy = ProxyConfig(
        max_pipeline=rng.choice((1, 4, 1024)),
        pipeline_bytes=rng.choice((100, 1 << 20)),
        output_pause=rng.choice((1, 1000, 1 << 20)),
        output_limit=rng.choice((10_000, 1 << 30)),
        memory_limit=rng.choice((0, 0, 300_000)),
        max_bulk_length=rng.choice((1000, 512 << 20)),
        max_arguments=rng.choice((100, 1 << 20)),
        query_limit=rng.choice((2000, 1 << 30)),
        max_inline_length=rng.choice((100, 64 << 10)),
    )
    cluster = ClusterConfig(
        name="fuzzed",
        listen_addr=Address("127.0.0.1", 6379),
        servers=(Address.parse(NAMES[0]),),
        read_timeout=LIMIT,
        write_timeout=LIMIT,
        node_connections=rng.randint(1, 3),
        pinned_connections=rng.randint(1, 4),
        read_from=rng.choice(("master", "master", "prefer_replica", "replica", "nearest")),
        slowlog_slower_than=rng.choice((0, 1)),
        denied_commands=(),
    )
    return Config(proxy=proxy, clusters=(cluster,))


def some_manners(rng: random.Random, hostile: bool) -> Manners:
    often = rng.choice((0.0, 0.02, 0.2))
    return Manners(
        redirect=rng.choice((0.0, often)),
        error=rng.choice((0.0, often)),
        close=rng.choice((0.0, often / 4)),
        stall=rng.choice((0.0, often)),
        garbage=rng.choice((0.0, often)) if hostile else 0.0,
        any_type=rng.choice((0.0, often, 1.0)) if hostile else 0.0,
    )


def some_topology(rng: random.Random) -> Topology:
    """Up to three masters, each with the next name as its replica or without; some slots may be nobody's."""
    bounds = [0, *sorted(rng.sample(range(1, SLOTS), 2)), SLOTS - rng.choice((0, 0, 1000))]
    names = rng.sample(NAMES, len(NAMES))
    return Topology(
        tuple(
            Shard(
                Address.parse(names[number]),
                ((first, last - 1),),
                (Address.parse(names[number + 3]),) if rng.random() < 0.7 else (),
            )
            for number, (first, last) in enumerate(itertools.pairwise(bounds))
            if first < last
        ),
        "7.0.15",
    )


class Round:
    """One worker and all it has to do with; also what it needs of the process around it: ``Control``.

    ``step`` is called in every turn. The round goes through its phases: strange things happen; they do no
    more, and requests are answered; clients go; servers go.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.hostile = self.rng.random() < 0.5
        self.manners = some_manners(self.rng, self.hostile)
        self.dials = Dials()
        self.worker = SteppedWorker(some_config(self.rng), self.dials, self)
        self.clients: list[FakeClient] = []
        self.servers: list[FakeServer] = []
        self.marks: set[bytes] = set()
        self._to_come = self.rng.randint(1, 12)
        self._steps = 0
        self._calm = False
        self._phase: Callable[[], bool | None] = self._play
        self._since = time.monotonic()
        self.error: BaseException | None = None

    # --- what a worker needs -----------------------------------------------------------------

    def refresh(self, _cluster: int, _reason: str) -> None:
        if self._calm or self.rng.random() < 0.3:
            self._set_topology()

    def facts(self, _cluster: int) -> Facts:
        return FACTS

    def slow_log(self, _cluster: int) -> list[SlowRecord]:
        return []

    def reset_slow_log(self, _cluster: int) -> None:
        pass

    # --- the round ---------------------------------------------------------------------------

    def run(self) -> None:
        """Raises AssertionError, or ProtocolError, when something does not hold."""
        self.worker.set_commands(TABLE)
        self._set_topology()
        try:
            self.worker.run()
        finally:
            for client in self.clients:
                client.close()
            for server in self.servers:
                server.close()
        if self.error:
            raise self.error

    def step(self) -> bool:
        """What happens in this turn; False when the round is over."""
        try:
            busy = self._phase()
            if self._calm and time.monotonic() > self._since + PATIENCE:
                raise AssertionError(
                    f"{self._phase.__name__} does not end: {self.worker.totals()} {self.worker.snapshot(0)}"
                )
        except BaseException as error:  # the data plane would log it and go on
            self.error = error
            return False
        if busy is None:
            return False
        if not busy and self._calm:
            time.sleep(0.0005)
        return True

    def _go_to(self, phase: Callable[[], bool | None]) -> bool:
        self._phase = phase
        self._since = time.monotonic()
        return True

    def _play(self) -> bool:
        rng = self.rng
        self._steps += 1
        if self._to_come and rng.random() < 0.3:
            self._to_come -= 1
            self._connect()
        for client in list(self.clients):
            client.step()
            if not isinstance(client, SteadyClient) and rng.random() < 0.01:
                self._end(client)
        self._serve()
        for act, chance in (
            (self._set_topology, 0.01),
            (self._eject, 0.01),
            (self._reconfigure, 0.005),
            (lambda: time.sleep(0.03), 0.005),
        ):
            if rng.random() < chance:
                act()
        said = not self._to_come and not any(client.rest for client in self.clients)
        if (said and rng.random() < 0.2) or self._steps == MOST_STEPS:
            self._calm = True
            for name in NAMES:
                self.worker.eject(0, Address.parse(name), False)
            if rng.random() < 0.1:
                self.worker.drain(0)
            self._set_topology(whole=True)
            return self._go_to(self._answer)
        return True

    def _answer(self) -> bool:
        """Until all clients that say nothing wrong have what is due to them."""
        busy = sum([client.step() for client in self.clients]) + self._serve() > 0
        steady = [client for client in self.clients if isinstance(client, SteadyClient)]
        if all(client.ended or (not client.rest and client.answered()) for client in steady):
            for client in self.clients:
                client.check(self.marks)
            return self._go_to(self._part)
        return busy

    def _part(self) -> bool:
        """Until all sessions have gone."""
        for client in list(self.clients):
            self._end(client)
        busy = self._serve()
        if self.worker.snapshot(0)["sessions"] == 0:
            return self._go_to(self._end_servers)
        return busy

    def _end_servers(self) -> bool | None:
        """Until nothing is left."""
        for _, _, refused in self.dials.wanted:
            refused("is closed")
        self.dials.wanted.clear()
        for server in self.servers:
            server.close()
        connections = sum(server[1] for server in self.worker.snapshot(0)["servers"])
        return False if connections or self.worker.totals()["buffer_bytes"] else None

    # --- what happens ------------------------------------------------------------------------

    def _pair(self) -> tuple[socket.socket, int]:
        """Our end and the worker's."""
        ours, theirs = socket.socketpair()
        if self.rng.random() < 0.3:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.setblocking(False)
        theirs.setblocking(False)
        return ours, theirs.detach()

    def _connect(self) -> None:
        ours, theirs = self._pair()
        kind = FakeClient if self.hostile or self.rng.random() < 0.5 else SteadyClient
        client = kind(self.rng, ours)
        self.clients.append(client)
        self.marks.add(client.mark)
        self.worker.add_session(0, theirs, len(self.marks))

    def _end(self, client: FakeClient) -> None:
        client.check(self.marks)
        if not self._calm and self.rng.random() < 0.3:
            client.rest = b""
            client.socket.shutdown(socket.SHUT_WR)
        else:
            client.close()
            self.clients.remove(client)

    def _serve(self) -> bool:
        """Servers and dials move on; whether anything did."""
        busy = sum([server.step(self._calm) for server in self.servers]) > 0
        for dial in list(self.dials.wanted):
            if not self._calm and self.rng.random() < 0.5:
                continue
            self.dials.wanted.remove(dial)
            protocol, opened, refused = dial
            if not self._calm and self.rng.random() < 0.1:
                refused("is not there")
                continue
            ours, theirs = self._pair()
            self.servers.append(FakeServer(self.rng, ours, protocol, self.manners))
            opened(theirs, len(self.servers))
            busy = True
        self.servers = [server for server in self.servers if not server.closed]
        return busy

    def _set_topology(self, whole: bool = False) -> None:
        topology = some_topology(self.rng)
        while whole and not topology.covered:
            topology = some_topology(self.rng)
        self.worker.set_topology(0, topology, frozenset(topology.servers[:2]))

    def _eject(self) -> None:
        self.worker.eject(0, Address.parse(self.rng.choice(NAMES)), self.rng.random() < 0.5)

    def _reconfigure(self) -> None:
        self.worker.configure(some_config(self.rng))


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def run_round(seed: int, failures: Failures) -> None:
    """Raises AssertionError or ProtocolError."""
    gc.collect()  # the round before may have failed
    failures.found.clear()
    before = descriptors()
    Round(seed).run()
    gc.collect()
    assert not failures.found, "\n".join(failures.found)
    assert descriptors() == before, "descriptors are left"


def fuzz(seeds: range, seconds: float, say: Callable[[str], None]) -> int:
    """Rounds until they, or the time, are over. Tells each kind of failure once; returns how many failed."""
    LAST_ROUND.parent.mkdir(exist_ok=True)
    failures = Failures()
    told: set[str] = set()
    failed = done = 0
    logger = logging.getLogger("proxy")
    logger.addHandler(failures)
    logger.propagate = False
    sys.unraisablehook = lambda hook: failures.found.append(
        f"unraisable in {hook.object!r}:\n" + "".join(traceback.format_exception(hook.exc_value))
    )
    gc.freeze()
    deadline = time.monotonic() + seconds
    try:
        for seed in seeds:
            if time.monotonic() > deadline:
                break
            LAST_ROUND.write_text(f"{seed}\n")
            done += 1
            try:
                run_round(seed, failures)
            except Exception as error:
                failed += 1
                trace = "".join(traceback.format_exception(error))
                kind = PLACE.findall(trace)[-1]
                if kind not in told:
                    told.add(kind)
                    say(f"seed {seed}:\n{trace[-4000:]}")
    finally:
        logger.removeHandler(failures)
        logger.propagate = True
        sys.unraisablehook = sys.__unraisablehook__
        gc.unfreeze()
    say(f"{done} rounds from seed {seeds[0]} on, {failed} failed")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.dataplane",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=600, help="at most (default 600)")
    parser.add_argument("--rounds", type=int, default=sys.maxsize, help="at most (default: no limit)")
    parser.add_argument("--seed", type=int, help="of the first round; the next has the next (default: any)")
    options = parser.parse_args()
    faulthandler.enable()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    rounds = min(options.rounds, 1 << 40)
    return int(fuzz(range(seed, seed + rounds), options.seconds, lambda text: print(text, flush=True)) > 0)


if __name__ == "__main__":
    sys.exit(main())
