"""Measures what idle connections cost: memory, and the time of those that are busy.

    python -m bench.connections [--idle N] [--busy N] [--threads N] [--rounds N] [--seconds S] [--json FILE]

Memory is what a new process has grown by (resident; the kernel's own, for sockets, is not in it) once so
many clients are connected that have said nothing, or PING, or HELLO 3 and CLIENT SETNAME. Then
redis-benchmark asks for keys with and without idle clients beside it, turn and turn about. A plain
redis-server is measured in the same way.
"""

import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass

from bench.command_line import parser, say, write
from bench.idle import AT_ONCE, GREETINGS, RESERVED, IdleClients, allow_descriptors
from bench.process import resident
from bench.redis_benchmark import CLIENTS, Measured, Target, fill, proxy_name, run
from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster, RedisServer

CALIBRATION = 20_000
"""Requests of the run that finds out how many make up the wanted time."""
GET = ["-t", "get"]


@dataclass
class Subject(Target):
    """A target that knows how many clients it has."""

    clients: Callable[[], int]


Start = Callable[[], AbstractContextManager[Subject]]


@dataclass
class Memory:
    """What a connection that has greeted so takes, bytes."""

    target: str
    greeting: str
    clients: int
    each: float


@dataclass
class Busy(Measured):
    """A run of GETs beside so many idle clients."""

    target: str
    idle: int


@contextmanager
def proxy_before(cluster: RedisCluster, threads: int) -> Iterator[Subject]:
    with ProxyProcess(cluster.addresses, proxy={"threads": threads}) as proxy:
        yield Subject(
            proxy_name(threads), proxy.port, proxy.pid, lambda: int(proxy.metric("overlord_proxy_conns"))
        )


@contextmanager
def plain_redis(clients: int) -> Iterator[Subject]:
    def connected() -> int:
        info: bytes = server.call("INFO", "clients")
        return int(info.partition(b"connected_clients:")[2].split()[0]) - 1  # but for the one that asks

    with RedisServer(options={"maxclients": str(clients)}) as server:
        yield Subject("plain redis", server.port, server.pid, connected)


@contextmanager
def idle_clients(subject: Subject, count: int, greeting: str) -> Iterator[None]:
    """So many are connected, and known to the target, while the block runs; none is afterwards."""
    with IdleClients(subject.port, count, GREETINGS[greeting]) as idle:
        wait_until(f"{count} clients are connected", lambda: subject.clients() == count)
        yield
        if not idle.are_well():
            raise RuntimeError(f"{subject.name}: idle clients were closed, or sent something")
    wait_until("the clients have gone", lambda: subject.clients() == 0)


def memory(start: Start, count: int, greeting: str) -> Memory:
    with start() as subject:
        with idle_clients(subject, AT_ONCE, greeting):
            pass  # what the first ones need, but no other
        before = resident(subject.pid)
        with idle_clients(subject, count, greeting):
            return Memory(subject.name, greeting, count, (resident(subject.pid) - before) / count)


def memory_table(found: list[Memory]) -> str:
    """As a Markdown table."""
    lines = ["| idle clients' first words | target | KB per client |", "| --- | --- | ---: |"]
    lines += [f"| {one.greeting} | {one.target} | {one.each / 1024:.2f} |" for one in found]
    return "\n".join(lines)


def busy_table(runs: list[Busy]) -> str:
    """Medians and the largest, as a Markdown table."""
    lines = [
        "| idle clients | target | requests/s | p50 ms | p99 ms | longest ms | CPU µs/request |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for idle, target in dict.fromkeys((one.idle, one.target) for one in runs):
        mine = [one for one in runs if one.idle == idle and one.target == target]
        rps, p50, p99 = (
            statistics.median(getattr(one, name) for one in mine) for name in ("rps", "p50", "p99")
        )
        cpu = statistics.median(one.user + one.system for one in mine)
        longest = max(one.longest for one in mine)
        lines.append(
            f"| {idle:,} | {target} | {rps:,.0f} | {p50:.2f} | {p99:.2f} | {longest:.2f} | {cpu:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    arguments = parser("bench.connections", __doc__)
    arguments.add_argument("--idle", type=int, default=10_000, help="idle clients (default 10000)")
    arguments.add_argument(
        "--busy", type=int, default=CLIENTS, help=f"clients of redis-benchmark (default {CLIENTS})"
    )
    arguments.add_argument("--threads", type=int, default=1, help="worker threads of the proxy (default 1)")
    arguments.add_argument(
        "--rounds", type=int, default=5, help="runs with and without idle clients (default 5)"
    )
    arguments.add_argument("--seconds", type=float, default=2.0, help="aimed length of a run (default 2)")
    options = arguments.parse_args()
    try:
        allow_descriptors(options.idle)
    except OSError as error:
        arguments.error(str(error))

    say("starting a cluster of three masters")
    taken: list[Memory] = []
    runs: list[Busy] = []
    with RedisCluster(masters=3, replicas=0) as cluster:
        starts: list[Start] = [
            lambda: proxy_before(cluster, options.threads),
            lambda: plain_redis(options.idle + options.busy + RESERVED // 2),
        ]
        for greeting in GREETINGS:
            say(f"memory: {greeting}")
            taken += [memory(start, options.idle, greeting) for start in starts]
        with starts[0]() as proxy, starts[1]() as plain:
            counts = {}
            for subject in (proxy, plain):
                fill(subject)
                rps = run(subject, GET, CALIBRATION, clients=options.busy).rps
                counts[subject.name] = max(CALIBRATION, int(rps * options.seconds))

            def measure(subject: Subject, idle: int) -> None:
                measured = run(subject, GET, counts[subject.name], clients=options.busy)
                runs.append(Busy(**asdict(measured), target=subject.name, idle=idle))

            for number in range(options.rounds):
                for subject in (proxy, plain):
                    measure(subject, 0)
                for subject in (proxy, plain):
                    with idle_clients(subject, options.idle, "PING"):
                        measure(subject, options.idle)
                say(f"round {number + 1} of {options.rounds} done")
    print(memory_table(taken), busy_table(runs), sep="\n\n")
    write({"memory": [asdict(one) for one in taken], "busy": [asdict(one) for one in runs]}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
