"""Looks for leaks over a long run: twenty million requests, and 200,000 clients that come and go.

    python -m bench.soak [--rounds N] [--requests N] [--connects N] [--threads N] [--json FILE]

Rounds of requests of all kinds come first, then rounds of connects; after each, when all clients have gone,
the proxy's memory, buffers, descriptors and Python objects are noted. When one of them still grows in the
second half of the rounds, the exit status is 1; in the first, tables, pools and the allocator's arenas grow
to their size. Growth is the median of the slopes between any two rounds: a step at one time is none.
"""

import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from bench.command_line import parser, say, write
from bench.dialogues import hold_dialogues, prepare
from bench.process import descriptors, resident
from bench.redis_benchmark import Target, fill
from bench.visits import visit
from lab.processes import free_ports, wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster

MILLION = 1_000_000
TEN_THOUSAND = 10_000

BOUNDS = {"resident": 128 * 1024, "buffers": 1024, "descriptors": 1, "blocks": 200}
"""Growth of each that is borne, in a million requests or in 10,000 connects.

Bytes of memory are few, for what they are of: an eighth of a byte of each request, 13 bytes of each connect.
"""


@dataclass
class Round:
    """What the proxy has after a round."""

    kind: str
    requests: int
    """Answered so far."""
    connects: int
    """Accepted so far."""
    resident: int
    """Bytes."""
    buffers: int
    """Bytes of buffers and requests."""
    descriptors: int
    blocks: int
    """Of memory, that Python holds."""


def look(kind: str, proxy: ProxyProcess) -> Round:
    """Waits until all clients have gone."""
    wait_until("all clients have gone", lambda: not proxy.metric("overlord_proxy_conns"))
    blocks = int(proxy.page("/debug/pprof/objects").split()[0])
    return Round(
        kind,
        int(proxy.metric("redis_proxy_requests_total")),
        int(proxy.metric("redis_proxy_connections_total")),
        resident(proxy.pid),
        int(proxy.metric("redis_proxy_buffer_bytes")),
        descriptors(proxy.pid),
        blocks,
    )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes between any two points."""
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(points, 2))


def growth(rounds: list[Round], kind: str) -> dict[str, float]:
    """By what: how much it grows in a million requests, or in 10,000 connects."""
    mine = [one for one in rounds if one.kind == kind]
    mine = mine[len(mine) // 2 :]
    unit = MILLION if kind == "requests" else TEN_THOUSAND
    return {name: slope([(getattr(one, kind) / unit, getattr(one, name)) for one in mine]) for name in BOUNDS}


def table(rounds: list[Round]) -> str:
    """As a Markdown table."""
    lines = [
        "| round | requests | connects | resident KB | buffers KB | descriptors | Python's blocks |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {one.kind} | {one.requests:,} | {one.connects:,} | {one.resident // 1024:,} "
        f"| {one.buffers // 1024:,} | {one.descriptors} | {one.blocks:,} |"
        for one in rounds
    ]
    return "\n".join(lines)


def growth_table(found: dict[str, dict[str, float]]) -> str:
    """As a Markdown table."""
    lines = [
        "| growth | in a million requests | in 10,000 connects | borne |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {found['requests'][name]:,.1f} | {found['connects'][name]:,.1f} | {bound:,} |"
        for name, bound in BOUNDS.items()
    ]
    return "\n".join(lines)


def main() -> int:
    arguments = parser("bench.soak", __doc__)
    arguments.add_argument("--rounds", type=int, default=20, help="of each kind (default 20)")
    arguments.add_argument("--requests", type=int, default=MILLION, help="in a round (default 1000000)")
    arguments.add_argument("--connects", type=int, default=TEN_THOUSAND, help="in a round (default 10000)")
    arguments.add_argument("--threads", type=int, default=1, help="worker threads of the proxy (default 1)")
    options = arguments.parse_args()
    if options.rounds < 3:
        arguments.error("--rounds: at least 3; growth is seen between two of the second half")
    rounds: list[Round] = []
    stat = free_ports(1)[0]
    with (
        RedisCluster(masters=3, replicas=0) as cluster,
        ProxyProcess(
            cluster.addresses,
            stat_port=stat,
            top={"pprof": f"127.0.0.1:{stat}"},
            proxy={"threads": options.threads},
        ) as proxy,
    ):
        target = Target("proxy", proxy.port, proxy.pid)
        fill(target)
        prepare(target)
        kinds: dict[str, Callable[[], None]] = {
            "requests": lambda: hold_dialogues(target, options.requests / MILLION),
            "connects": lambda: visit(proxy.port, options.connects),
        }
        for kind, work in kinds.items():
            for number in range(options.rounds):
                work()
                rounds.append(look(kind, proxy))
                say(f"{kind}, round {number + 1} of {options.rounds}: {rounds[-1].resident // 1024:,} KB")
        failures = proxy.log().count("Traceback")
    found = {kind: growth(rounds, kind) for kind in kinds}
    print(table(rounds), growth_table(found), sep="\n\n")
    write({"rounds": [asdict(one) for one in rounds], "growth": found}, options.json)
    faults = [
        f"{name} grows with {kind}: {grown:,.1f}, and {BOUNDS[name]:,} are borne"
        for kind, by_name in found.items()
        for name, grown in by_name.items()
        if grown > BOUNDS[name]
    ]
    if failures:
        faults.append(f"the proxy has logged {failures} failures")
    print(*faults, sep="\n", end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
