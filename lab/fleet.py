"""`make lab`: a small fleet on one machine, with all that is around a fleet.

Three hosts that boot a real systemd, a Redis Cluster, a load balancer (HAProxy) and the AWS API (moto) in
network namespaces of a network that leads nowhere else. The inventory is inventory/lab.yml; the playbooks
are the ones for real fleets.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lab.aws import AwsStandIn
from lab.host import Host, Hosts
from lab.image import CACHE, base_image
from lab.load_balancer import LoadBalancer
from lab.network import Network
from lab.processes import Started, wait_until
from lab.redis_cluster import Place, RedisCluster
from lab.requirements import why_not

ROOT = Path(__file__).parents[1]
DIRECTORY = ROOT / ".lab"
INVENTORY = ROOT / "inventory" / "lab.yml"
HOSTS = {"proxy1": 11, "proxy2": 12, "proxy3": 13}
"""Names, as in the inventory, and last numbers of addresses."""
BALANCER, REDIS = 2, 3
REDIS_PORTS = range(7001, 7007)
PASSWORD = "lab-redis-password"
"""The Redis Cluster's, as group_vars/lab.yml has it."""
PORT, STAT_PORT = 6379, 8080
AWS_PORT = 4566
DRAIN_DELAY = 1
"""Seconds of deregistration delay: short, so that a wave is."""
UP_TIME = 900.0
"""Seconds until the lab must be up, the image's first build included."""


class Fleet(Started):
    """Everything the lab runs; ends with the process that started it."""

    def __init__(
        self,
        directory: Path = DIRECTORY,
        *,
        network: str = "rplab",
        subnet: str = "10.98.0",
        aws_port: int = AWS_PORT,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``directory`` gets keys and disks, ``subnet`` is its first three numbers."""
        self.directory = directory
        self.subnet = subnet
        self.network = Network(network, f"{subnet}.0/24")
        self.hosts: dict[str, Host] = {}
        self._aws_port = aws_port
        self._progress = progress
        self._stack = contextlib.ExitStack()
        self.redis: RedisCluster
        self.balancer: LoadBalancer
        self.aws: AwsStandIn

    def start(self) -> None:
        """Raises RuntimeError, OSError or TimeoutError that say what could not be had."""
        self.directory.mkdir(parents=True, exist_ok=True)
        image = base_image(CACHE, progress=self._progress)
        key = self._make_key()
        self._stack.enter_context(self.network)
        self._progress(f"booting {len(HOSTS)} hosts")
        known = {name: f"{self.subnet}.{last}" for name, last in HOSTS.items()}
        self.hosts = {
            name: Host(
                name,
                image,
                self.network.namespace(name, last),
                self.directory / name,
                public_key=key,
                hosts=known,
            )
            for name, last in HOSTS.items()
        }
        self._stack.enter_context(Hosts(list(self.hosts.values())))
        (self.directory / "known_hosts").write_text(
            "".join(f"{host.host_key}\n" for host in self.hosts.values())
        )
        self._progress("starting a Redis Cluster: three masters, three replicas")
        servers = self.network.namespace("redis", REDIS)
        self.redis = self._stack.enter_context(
            RedisCluster(
                places=[Place(servers.address, port, servers) for port in REDIS_PORTS],
                password=PASSWORD,
            )
        )
        self._progress("starting the load balancer and the AWS API")
        front = self.network.namespace("nlb", BALANCER)
        self.balancer = self._stack.enter_context(
            LoadBalancer(
                host=front.address,
                port=PORT,
                check_port=STAT_PORT,
                check_path="/readyz",
                prefix=front.prefix,
            )
        )
        self.aws = self._stack.enter_context(
            AwsStandIn(self.balancer, port=self._aws_port, delay=DRAIN_DELAY)
        )

        self._write_environment()

    def _write_environment(self) -> None:
        """For the shell of whoever tries the lab."""
        variables = {**self.aws.environment, "ANSIBLE_INVENTORY": str(INVENTORY)}
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        lines.append(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
        (self.directory / "env").write_text("\n".join(lines) + "\n")

    def _make_key(self) -> str:
        """The operator's key; returns its public half."""
        key = self.directory / "id_ed25519"
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        return key.with_suffix(".pub").read_text()

    @property
    def variables(self) -> dict[str, str]:
        """What the inventory must be told of a lab that is not the usual one."""
        return {
            "lab_directory": str(self.directory),
            "lab_subnet": self.subnet,
            "lab_aws_port": str(self._aws_port),
        }

    def stop(self) -> None:
        self._stack.close()
        self.network.stop()
        for name in HOSTS:
            shutil.rmtree(self.directory / name, ignore_errors=True)


# --- the commands -----------------------------------------------------------------------------

HELP = """
The lab is up, and the fleet serves:

  redis-cli -h {subnet}.{balancer} SET greeting hello        through the load balancer

Try each verb. In another terminal, keep a load on it:

  redis-benchmark -h {subnet}.{balancer} -t get,set -n 10000000 -c 20

  . .lab/env                                                 Ansible, the lab's inventory, keys for its AWS

  ansible-playbook playbooks/status.yml                      a table of the fleet
  ansible-playbook playbooks/restart.yml                     in a wave; or -e immediate=true
  ansible-playbook playbooks/upgrade.yml                     after raising __version__ in proxy/__init__.py
  ansible-playbook playbooks/rollback.yml                    to the release before
  ansible-playbook playbooks/reconfigure.yml                 after editing inventory/group_vars/lab.yml
  ansible-playbook playbooks/drain.yml --limit proxy2        out of service; undrain.yml brings it back
  ansible proxies -a "systemctl restart redis-proxy"         whatever you like, on all hosts

  make lab-down                                              removes all of it
"""


def up() -> int:
    """Starts the lab in the background, deploys to it, and says what to try."""
    if reason := why_not():
        print(f"lab: {reason}", file=sys.stderr)
        return 1
    if _running():
        print("lab: it is up already; make lab-down removes it", file=sys.stderr)
        return 1
    DIRECTORY.mkdir(exist_ok=True)
    for name in ("up", "log"):
        (DIRECTORY / name).unlink(missing_ok=True)
    with (DIRECTORY / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.fleet", "run"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (DIRECTORY / "pid").write_text(f"{process.pid}\n")
    if not _follow(process):
        return 1
    command = "ansible-playbook playbooks/deploy.yml -e wave_batch=100%"
    print(f"lab: {command}", flush=True)
    status = subprocess.run(["sh", "-c", f". .lab/env; {command}"], cwd=ROOT, check=False).returncode
    if status == 0:
        print(HELP.format(subnet="10.98.0", balancer=BALANCER))
    return status


def _follow(process: subprocess.Popen[bytes]) -> bool:
    """Shows what the lab says until it is up; False when it ends instead."""
    shown, deadline = 0, time.monotonic() + UP_TIME
    while True:
        done = (DIRECTORY / "up").exists() or process.poll() is not None or time.monotonic() > deadline
        text = (DIRECTORY / "log").read_text(errors="replace")
        print(text[shown:], end="", flush=True)
        shown = len(text)
        if done:
            return (DIRECTORY / "up").exists()
        time.sleep(0.1)


def run() -> int:
    """Is the lab, until told to end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        with Fleet(progress=lambda text: print(f"lab: {text}", flush=True)):
            (DIRECTORY / "up").touch()
            signal.pause()
    except SystemExit:
        pass
    except (OSError, RuntimeError, TimeoutError) as error:
        print(f"lab: {error}", flush=True)
        return 1
    finally:
        (DIRECTORY / "up").unlink(missing_ok=True)
    return 0


def _end(*_: object) -> None:
    raise SystemExit(0)


def down() -> int:
    """Ends the lab, and removes what one that ended badly has left."""
    pid = _running()
    if pid:
        print("lab: ending", flush=True)
        os.kill(pid, signal.SIGTERM)
        wait_until("the lab has ended", lambda: not _running(), 60)
    else:
        Fleet().stop()
    if DIRECTORY.exists():
        shutil.rmtree(DIRECTORY)
    print("lab: nothing of it is left", flush=True)
    return 0


def _running() -> int:
    """The lab's process; 0 when there is none."""
    try:
        pid = int((DIRECTORY / "pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return 0
    return pid if b"lab.fleet" in words else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.fleet", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "run"), help="run: up, in the foreground")
    return {"up": up, "down": down, "run": run}[parser.parse_args().command]()


if __name__ == "__main__":
    sys.exit(main())
