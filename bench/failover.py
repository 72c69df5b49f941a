"""Measures how long requests wait for a failover, and what becomes of those that were under way.

    python -m bench.failover [--rounds N] [--faults LIST] [--json FILE]

Each round a master is taken away under load: killed, stopped with its sockets left open, cut off the
network, or told to hand over to its replica. The servers, three masters with a replica each, are in network
namespaces, which need root. Clients write to every shard, each on one connection that it
never makes anew. Told is the time from the replica's promotion, which is the servers' own affair and depends
on cluster-node-timeout, to the moment when every client of that shard has had a request succeed again.
"""

import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

from bench.command_line import among, parser, say, write
from lab.network import Network
from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster, RedisServer, places_in
from proxy.address import Address
from proxy.control import Connection, ReplyError

CLIENTS = 4
"""Of each shard."""
NETWORK, SUBNET = "rpfailover", "10.96.0.0/24"
SERVERS = 6
NODE_TIMEOUT = 1000
"""ms: cluster-node-timeout."""
PAUSE = 0.002
"""Seconds between a client's requests."""
AFTERWARDS = 1.0
"""Seconds a round goes on after the promotion."""


@dataclass
class Round:
    """What one failover was like. Times are in ms."""

    fault: str
    promoted: float
    """From the fault to the promotion."""
    recovered: float
    """From the promotion until every client of the shard had a request succeed."""
    longest: float
    """The longest request of the shard's clients."""
    elsewhere: float
    """The longest request of the other shards' clients meanwhile."""
    errors: dict[str, int]
    """Error replies to the shard's clients."""
    errors_elsewhere: int


class Client(threading.Thread):
    """Counts up a key of its own, one request after another."""

    def __init__(self, port: int, key: str) -> None:
        super().__init__(daemon=True)
        self.key = key
        self.requests: list[tuple[float, float, str]] = []
        """When each was sent, when it was answered (time.monotonic), and the error; "" for none."""
        self.failure: OSError | None = None
        self._port = port
        self._stopping = threading.Event()

    def run(self) -> None:
        try:
            with Connection.open(Address("127.0.0.1", self._port), timeout=60) as connection:
                while not self._stopping.wait(PAUSE):
                    sent = time.monotonic()
                    reply = connection.pipeline([("INCR", self.key)])[0]
                    error = str(reply) if isinstance(reply, ReplyError) else ""
                    self.requests.append((sent, time.monotonic(), error))
        except OSError as error:
            self.failure = error

    def stop(self) -> None:
        self._stopping.set()
        self.join(60)
        if self.failure:
            raise RuntimeError(f"client of {self.key}: {self.failure}")

    def succeeded_after(self, moment: float) -> bool:
        """Whether a request that succeeded was answered after ``moment``."""
        return any(answered > moment and not error for _, answered, error in self.requests[-50:])


FAULTS: dict[str, Callable[[RedisServer, RedisServer], object]] = {
    "killed": lambda master, replica: master.kill(),
    "hung": lambda master, replica: master.pause(),
    "cut off": lambda master, replica: master.cut(),
    "handed over": lambda master, replica: replica.call("CLUSTER", "FAILOVER"),
}


def run(fault: str) -> Round:
    """One failover of a new cluster. Raises TimeoutError when it does not come to an end."""
    with (
        Network(NETWORK, SUBNET) as network,
        RedisCluster(node_timeout=NODE_TIMEOUT, places=places_in(network, SERVERS)) as cluster,
        ProxyProcess(cluster.addresses) as proxy,
    ):
        victim = cluster.masters[0]
        replica = cluster.replica_of(victim)
        clients: dict[Address, list[Client]] = {master.address: [] for master in cluster.masters}
        for number in range(20 * CLIENTS):
            key = f"key:{number}"
            some = clients[cluster.master_of(key).address]
            if len(some) < CLIENTS:
                some.append(Client(proxy.port, key))
        everyone = [client for some in clients.values() for client in some]
        for client in everyone:
            client.start()
        affected = clients[victim.address]
        others = [client for client in everyone if client not in affected]
        try:
            wait_until("every client works", lambda: all(len(client.requests) > 100 for client in everyone))
            began = time.monotonic()
            with Connection.open(replica.address) as watch:
                FAULTS[fault](victim, replica)
                while watch.call("ROLE")[0] != b"master":
                    if time.monotonic() > began + 60:
                        raise TimeoutError(f"{fault}: the replica was not promoted")
                    time.sleep(0.0005)
            promoted = time.monotonic()
            wait_until(
                "the shard's clients work again",
                lambda: all(client.succeeded_after(promoted) for client in affected),
                60,
            )
            time.sleep(AFTERWARDS)
        finally:
            for client in everyone:
                client.stop()
            if fault == "hung":
                victim.resume()

    def first(client: Client) -> float:
        return min(answered for _, answered, error in client.requests if answered > promoted and not error)

    def longest(some: list[Client]) -> float:
        return max(
            answered - sent for client in some for sent, answered, _ in client.requests if answered > began
        )

    return Round(
        fault,
        (promoted - began) * 1000,
        (max(first(client) for client in affected) - promoted) * 1000,
        longest(affected) * 1000,
        longest(others) * 1000,
        dict(Counter(error for client in affected for _, _, error in client.requests if error)),
        sum(bool(error) for client in others for _, _, error in client.requests),
    )


def table(rounds: list[Round]) -> str:
    """Medians and the largest, as a Markdown table."""
    lines = [
        "| master | rounds | promoted after ms | served again after ms | at most "
        "| others' slowest request ms | unknown outcomes | other errors | others' errors |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for fault in dict.fromkeys(one.fault for one in rounds):
        mine = [one for one in rounds if one.fault == fault]
        errors = [(error, count) for one in mine for error, count in one.errors.items()]
        unknown = sum(count for error, count in errors if "outcome" in error)
        lines.append(
            f"| {fault} | {len(mine)} | {statistics.median(one.promoted for one in mine):.0f} "
            f"| {statistics.median(one.recovered for one in mine):.0f} "
            f"| {max(one.recovered for one in mine):.0f} | {max(one.elsewhere for one in mine):.0f} "
            f"| {unknown} | {sum(count for _, count in errors) - unknown} "
            f"| {sum(one.errors_elsewhere for one in mine)} |"
        )
    return "\n".join(lines)


def main() -> int:
    arguments = parser("bench.failover", __doc__)
    arguments.add_argument("--rounds", type=int, default=5, help="failovers of each kind (default 5)")
    arguments.add_argument("--faults", default=",".join(FAULTS), help=f"default: {','.join(FAULTS)}")
    options = arguments.parse_args()
    faults = among(arguments, "fault", FAULTS, options.faults)
    rounds: list[Round] = []
    for fault in faults:
        for number in range(options.rounds):
            rounds.append(run(fault))
            last = rounds[-1]
            say(
                f"{fault}, {number + 1} of {options.rounds}: "
                f"{last.recovered:.0f} ms, {sum(last.errors.values())} errors"
            )
    print(table(rounds))
    write([asdict(one) for one in rounds], options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
