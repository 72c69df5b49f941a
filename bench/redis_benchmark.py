"""One run of redis-benchmark, and what it cost the process that answered."""

import csv
import io
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from bench.process import cpu_seconds

CLIENTS = 50
KEYS = 100_000


@dataclass
class Target:
    """What is measured."""

    name: str
    port: int
    pid: int


def proxy_name(workers: int) -> str:
    return f"proxy, {workers} worker{'s' if workers > 1 else ''}"


@dataclass
class Measured:
    """Times are in ms, CPU in µs per request."""

    requests: int
    rps: float
    p50: float
    p99: float
    longest: float
    user: float
    system: float


def run(
    target: Target, arguments: Sequence[str], requests: int, depth: int = 1, clients: int = CLIENTS
) -> Measured:
    """``depth``: requests sent at once by each client. Raises RuntimeError when redis-benchmark fails."""
    before = cpu_seconds(target.pid)
    result = subprocess.run(
        [
            *("redis-benchmark", "-p", str(target.port), "--csv", "-c", str(clients)),
            *("-n", str(requests), "-P", str(depth), "-r", str(KEYS), *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    after = cpu_seconds(target.pid)
    rows = [row for row in csv.reader(io.StringIO(result.stdout)) if len(row) == 8 and row[0] != "test"]
    if result.returncode or not rows:
        raise RuntimeError(f"redis-benchmark against {target.name}: {result.stdout}{result.stderr}")
    _, rps, _, _, p50, _, p99, longest = rows[-1]
    user, system = (1e6 * (late - early) / requests for early, late in zip(before, after, strict=True))
    return Measured(requests, float(rps), float(p50), float(p99), float(longest), user, system)


def fill(target: Target) -> None:
    """Gives nearly every key a value."""
    run(target, ["-t", "set"], 3 * KEYS, 64)
