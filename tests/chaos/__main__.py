"""Has servers and proxies fail at random under load, and checks everything that clients were told.

    python -m tests.chaos [--minutes N] [--seed S] [--keep DIR] [--json FILE]

Three masters and three replicas, each in a network namespace of its own, two proxies on loopback, and
clients of both. Each round, of three minutes at most, has servers and proxies of its own. At its end what
clients were told is compared with the append-only files of all servers and with what is left in them.
Violations end it with status 1. Network namespaces need root.
"""

import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.command_line import parser, say, write
from lab.network import Network
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster, places_in
from proxy.address import Address
from tests.chaos import final
from tests.chaos.checker import VIOLATIONS, Verdict, check
from tests.chaos.evidence import OPTIONS, Keeper
from tests.chaos.history import History
from tests.chaos.nemesis import Nemesis
from tests.chaos.sessions import Clients

NETWORK, SUBNET = "rpchaos", "10.97.0.0/24"
SERVERS, PROXIES = 6, 2
NODE_TIMEOUT = 1000
"""ms: cluster-node-timeout."""
ROUND = 180.0
"""Seconds."""
SHOWN = 10
"""How many violations of a kind are printed."""


@dataclass
class Result:
    verdict: Verdict = field(default_factory=Verdict)
    faults: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    """Error replies to clients."""

    def __add__(self, other: "Result") -> "Result":
        return Result(self.verdict + other.verdict, self.faults + other.faults, self.errors + other.errors)


def run(seconds: float, seed: int, keep: Path | None) -> Result:
    """One round. Raises TimeoutError when the cluster itself does not become well again.

    What explains violations is copied to ``keep``.
    """
    history = History()
    with ExitStack() as stack:
        network = stack.enter_context(Network(NETWORK, SUBNET))
        cluster = stack.enter_context(
            RedisCluster(node_timeout=NODE_TIMEOUT, places=places_in(network, SERVERS), options=OPTIONS)
        )
        keeper = stack.enter_context(Keeper({str(node.address): node.directory for node in cluster.nodes}))
        proxies = [stack.enter_context(ProxyProcess(cluster.addresses)) for _ in range(PROXIES)]
        with Clients([Address("127.0.0.1", proxy.port) for proxy in proxies], history, seed) as clients:
            nemesis = Nemesis(cluster, proxies, clients, seed)
            nemesis.rage(seconds)
        left = final.read(cluster, {write.key: write.kind for write in history.writes})
        verdict = check(history, keeper.evidence(), left, nemesis.circumstances)
        logs = {f"proxy-{number}.log": proxy.log() for number, proxy in enumerate(proxies)}
        bugs = [f"{name}: Traceback" for name, text in logs.items() if "Traceback" in text]
        verdict.violations["bug in a proxy"] += nemesis.failed + bugs
        if keep and not verdict.clean:
            copy(keep / str(seed), verdict, {"nemesis.log": "\n".join(nemesis.log), **logs}, cluster)
    verdict.counts["connections made"] = clients.connects
    verdict.counts["replicas promoted"] = nemesis.promotions
    return Result(verdict, nemesis.faults, history.errors)


def copy(directory: Path, verdict: Verdict, logs: Mapping[str, str], cluster: RedisCluster) -> None:
    """Keeps the violations of a round and what may explain them: logs, and the servers' files."""
    directory.mkdir(parents=True)
    lines = (f"{name}: {one}\n" for name, found in verdict.violations.items() for one in found)
    (directory / "violations").write_text("".join(lines))
    for name, text in logs.items():
        (directory / name).write_text(text)
    for node in cluster.nodes:
        shutil.copytree(node.directory, directory / str(node.address))


def report(result: Result) -> str:
    """All counts, one a line."""

    def lines(title: str, counts: Iterable[tuple[str, int]]) -> list[str]:
        return [f"\n{title}", *(f"{count:12,}  {name}" for name, count in counts)]

    verdict = result.verdict
    found = [(name, len(verdict.violations[name])) for name in VIOLATIONS]
    return "\n".join(
        [
            *lines("What clients did", sorted(verdict.counts.items())),
            *lines("What went wrong around them", sorted(result.faults.items())),
            *lines("Errors they were told", result.errors.most_common()),
            *lines("What the cluster lost in failovers", sorted(verdict.lost_by_cluster.items())),
            *lines("What the proxy did wrong", found),
        ]
    )


def main() -> int:
    arguments = parser("tests.chaos", __doc__)
    arguments.add_argument("--minutes", type=float, default=3, help="how long (default 3)")
    arguments.add_argument("--seed", type=int, help="of all that is random (default: another each time)")
    arguments.add_argument(
        "--keep", type=Path, metavar="DIR", help="where to keep logs and files of violations"
    )
    options = arguments.parse_args()
    seed = random.randrange(1 << 30) if options.seed is None else options.seed
    say(f"seed {seed}")
    left, total = options.minutes * 60, Result()
    while left > 0:
        one = run(min(left, ROUND), seed, options.keep)
        left -= ROUND
        total += one
        requests, violations = one.verdict.counts["requests"], sum(map(len, one.verdict.violations.values()))
        say(f"seed {seed}: {requests:,} requests, {sum(one.faults.values())} faults, {violations} violations")
        for name, found in one.verdict.violations.items():
            for each in found[:SHOWN]:
                say(f"    {name}: {each}")
        seed += 1
    print(report(total))
    write(as_json(total, options.minutes), options.json)
    return 0 if total.verdict.clean else 1


def as_json(result: Result, minutes: float) -> dict[str, object]:
    """Every count."""
    return {
        "minutes": minutes,
        "counts": result.verdict.counts,
        "faults": result.faults,
        "errors": result.errors,
        "lost by the cluster": result.verdict.lost_by_cluster,
        "violations": {name: len(found) for name, found in result.verdict.violations.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
