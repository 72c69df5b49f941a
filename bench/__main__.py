"""Measures the proxy in front of a loopback cluster, beside a plain redis-server in the same run.

    python -m bench [--threads N] [--rounds N] [--seconds S] [--tests LIST] [--json FILE]

redis-benchmark drives both, turn and turn about, so that a noisy machine is noisy for both. CPU is
the process's own user and system time divided by the requests it answered: that figure moves far
less with the machine's mood than requests per second.
"""

import statistics
import sys
from dataclasses import asdict, dataclass

from bench.command_line import among, parser, say, write
from bench.redis_benchmark import Measured, Target, fill, proxy_name, run
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster, RedisServer

CALIBRATION = 20_000
"""Requests of the run that finds out how many make up the wanted time."""

TESTS: dict[str, tuple[list[str], int]] = {
    "get": (["-t", "get"], 1),
    "set": (["-t", "set"], 1),
    "mset": (["-t", "mset"], 1),
    "get-P16": (["-t", "get"], 16),
    "set-P16": (["-t", "set"], 16),
    "mset-P16": (["-t", "mset"], 16),
}


@dataclass
class Run(Measured):
    """One run of one test against one target."""

    target: str
    test: str


def measure(target: Target, test: str, requests: int) -> Run:
    """Raises RuntimeError when redis-benchmark fails."""
    arguments, depth = TESTS[test]
    return Run(**asdict(run(target, arguments, requests, depth)), target=target.name, test=test)


def table(runs: list[Run], targets: list[str], tests: list[str]) -> str:
    """Medians, as a Markdown table."""
    lines = [
        "| test | target | requests/s | p50 ms | p99 ms | CPU µs/request | user | system |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for test in tests:
        for target in targets:
            mine = [run for run in runs if run.test == test and run.target == target]
            rps, p50, p99, user, system = (
                statistics.median(getattr(run, name) for run in mine)
                for name in ("rps", "p50", "p99", "user", "system")
            )
            lines.append(
                f"| {test} | {target} | {rps:,.0f} | {p50:.2f} | {p99:.2f} "
                f"| {user + system:.2f} | {user:.2f} | {system:.2f} |"
            )
    return "\n".join(lines)


def main() -> int:
    arguments = parser("bench", __doc__)
    arguments.add_argument("--threads", type=int, default=1, help="worker threads of the proxy (default 1)")
    arguments.add_argument(
        "--rounds", type=int, default=5, help="runs of each test on each target (default 5)"
    )
    arguments.add_argument("--seconds", type=float, default=2.0, help="aimed length of a run (default 2)")
    arguments.add_argument("--tests", default=",".join(TESTS), help=f"default: {','.join(TESTS)}")
    options = arguments.parse_args()
    tests = among(arguments, "test", TESTS, options.tests)
    runs: list[Run] = []
    say("starting a cluster of three masters and a plain redis-server")
    with (
        RedisCluster(masters=3, replicas=0) as cluster,
        RedisServer() as plain,
        ProxyProcess(cluster.addresses, proxy={"threads": options.threads}) as proxy,
    ):
        targets = [
            Target(proxy_name(options.threads), proxy.port, proxy.pid),
            Target("plain redis", plain.port, plain.pid),
        ]
        say("filling both")
        for target in targets:
            fill(target)
        counts = {
            (target.name, test): max(
                CALIBRATION, int(measure(target, test, CALIBRATION).rps * options.seconds)
            )
            for test in tests
            for target in targets
        }
        for number in range(options.rounds):
            for test in tests:
                runs += [measure(target, test, counts[target.name, test]) for target in targets]
            say(f"round {number + 1} of {options.rounds} done")
    print(table(runs, [target.name for target in targets], tests))
    write([asdict(run) for run in runs], options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
