"""`make run`: the proxy in front of a cluster, to try it out.

Starts a loopback Redis Cluster of three masters and three replicas, unless it is given servers of
yours, and the proxy before it; shows what goes on once a second; ends all it started on Ctrl-C.
"""

import argparse
import contextlib
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from proxy.address import Address

FIRST_PORT = 6379
FIRST_STAT_PORT = 8080


def free_port(first: int) -> int:
    """The first port from ``first`` on that nobody listens on."""
    for port in range(first, 65536):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port from {first} on")


def parse_servers(text: str) -> list[Address]:
    """The addresses of --servers. Raises ValueError."""
    servers = []
    for server in text.split(","):
        try:
            servers.append(Address.parse(server.strip()))
        except ValueError as error:
            raise ValueError(f"--servers {server!r}: {error}; HOST:PORT[,HOST:PORT…] is wanted") from error
    return servers


def say(text: str) -> None:
    print(text, flush=True)


def scrape(stat: int) -> dict[str, float]:
    """Sums of the proxy's metrics over their labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{stat}/metrics", timeout=5) as page:
        text = page.read().decode()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


def status_lines(stat: int) -> Iterator[str]:
    """What the proxy has been doing since it was last asked, each time it is asked."""
    before, began = scrape(stat), time.monotonic()
    while True:
        now, ended = scrape(stat), time.monotonic()
        yield status_line(before, now, ended - began)
        before, began = now, ended


def status_line(before: dict[str, float], now: dict[str, float], seconds: float) -> str:
    """Tells two scrapes that lie so far apart."""
    rise = {name: (value - before.get(name, 0)) / seconds for name, value in now.items()}
    requests = rise.get("redis_proxy_requests_total", 0)
    waited = rise.get("redis_proxy_request_duration_seconds_sum", 0)
    return (
        f"{requests:,.0f} requests/s, {rise.get('redis_proxy_request_errors_total', 0):,.0f} errors/s, "
        f"{waited / requests * 1000 if requests else 0:.2f} ms mean, "
        f"{now.get('overlord_proxy_conns', 0):.0f} clients, "
        f"{now.get('redis_proxy_topology_slots_covered', 0):.0f}/16384 slots, "
        f"CPU {rise.get('process_cpu_seconds_total', 0) * 100:.0f} %"
    )


def watch(proxy: ProxyProcess, ended: threading.Event) -> None:
    """Shows the status until told to end, or until the proxy ends."""
    live = sys.stdout.isatty()
    lines = status_lines(proxy.stat_port)
    next(lines)
    while not ended.wait(1 if live else 10):
        if proxy.returncode is not None:
            say(f"\nthe proxy ended with status {proxy.returncode}:\n{proxy.log()}")
            return
        print(f"\r\x1b[K{next(lines)}" if live else next(lines), end="" if live else "\n", flush=True)
    if live:
        print()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    parser.add_argument("--servers", help="HOST:PORT[,HOST:PORT…] of a cluster of yours, instead of our own")
    parser.add_argument(
        "--port", type=int, default=FIRST_PORT, help="the proxy's, or the next free one (default 6379)"
    )
    parser.add_argument(
        "--stat-port", type=int, default=FIRST_STAT_PORT, help="for metrics, likewise (default 8080)"
    )
    options = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with contextlib.ExitStack() as stack:
        try:
            if options.servers:
                servers = parse_servers(options.servers)
            else:
                say("starting a loopback Redis Cluster: three masters, three replicas")
                cluster = stack.enter_context(RedisCluster(progress=lambda text: say(f"  {text}")))
                servers = cluster.addresses
            port, stat = free_port(options.port), free_port(options.stat_port)
            if port != options.port:
                say(f"port {options.port} is taken: the proxy listens on {port}")
            say(f"starting the proxy before {', '.join(map(str, servers))}")
            proxy = stack.enter_context(
                ProxyProcess(servers, port=port, stat_port=stat, wait=not options.servers)
            )
        except (OSError, ValueError, RuntimeError, TimeoutError) as error:
            print(f"run: {error}", file=sys.stderr)
            return 1
        say("")
        say(f"  try it:   redis-cli -p {port} MSET a 1 b 2 c 3")
        say(f"  metrics:  http://127.0.0.1:{stat}/metrics")
        say("  Ctrl-C ends everything started here")
        say("")
        watch(proxy, ended)
        say("ending")
    return 0


if __name__ == "__main__":
    sys.exit(main())
