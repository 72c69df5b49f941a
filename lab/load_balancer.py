"""A real load balancer for TCP: HAProxy, in the place of AWS's Network Load Balancer."""

import csv
import io
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.processes import Started, end, free_ports, start, wait_until
from proxy.address import Address

BACKEND = "targets"
ANSWER_TIME = 10.0
"""Seconds HAProxy may take to answer on its admin socket."""


@dataclass(frozen=True, slots=True)
class Target:
    """What HAProxy says of one target."""

    address: Address
    status: str
    """UP, DOWN, DRAIN, or MAINT for a free slot; while it changes, with the checks counted so far, as in
    ``DOWN 1/2``."""
    check: str
    """The last check: HAProxy's code and its reason, as in ``L4CON Connection refused``."""
    sessions: int
    """Connections now."""
    total: int
    """Connections since HAProxy started; a slot that had another target before counts that one's too."""

    @property
    def up(self) -> bool:
        return self.status.startswith("UP")

    @property
    def taken(self) -> bool:
        """Whether there is a target: what HAProxy calls in maintenance is a free slot."""
        return not self.status.startswith("MAINT")


class Backend:
    """The targets of a running HAProxy, over its admin socket.

    It keeps nothing itself, so another process may use the same HAProxy. All methods raise OSError when
    HAProxy is not there, and RuntimeError, with what it said, when it refuses.
    """

    def __init__(self, admin: Path) -> None:
        self.admin = admin

    def add(self, address: Address) -> None:
        """Adds a target, or puts one that drains back; it gets connections once its checks have passed.

        Raises RuntimeError when all slots are taken.
        """
        slots = self._slots()
        slot = next((name for name, one in slots.items() if one.address == address and one.taken), None)
        if slot is None:
            free = [name for name, one in slots.items() if not one.taken]
            if not free:
                raise RuntimeError(f"all {len(slots)} slots of the load balancer are taken")
            # A target that was removed may have left connections in its slot.
            slot = min(free, key=lambda name: slots[name].sessions)
            self._ask(f"set server {BACKEND}/{slot} addr {address.host} port {address.port}")
        # A server that leaves maintenance counts as up until a check fails. One that drains gets no
        # connections, so that is where it is called down, to be called up by its checks alone.
        self._set(slot, "state drain", "health down", "state ready")

    def drain(self, address: Address) -> None:
        """No new connections; existing ones go on, and so do the checks."""
        self._set(self._slot_of(address), "state drain")

    def remove(self, address: Address, *, end_connections: bool = False) -> None:
        """Frees the target's slot. Its connections go on unless they are ended too."""
        slot = self._slot_of(address)
        self._set(slot, "state maint")
        if end_connections:
            self._ask(f"shutdown sessions server {BACKEND}/{slot}")

    def targets(self) -> dict[Address, Target]:
        return {target.address: target for target in self._slots().values() if target.taken}

    def _slot_of(self, address: Address) -> str:
        for name, target in self._slots().items():
            if target.address == address and target.taken:
                return name
        raise RuntimeError(f"{address} is not a target")

    def _slots(self) -> dict[str, Target]:
        servers = 4  # HAProxy's number for rows of this kind
        rows = csv.DictReader(io.StringIO(self._ask(f"show stat {BACKEND} {servers} -1").removeprefix("# ")))
        return {
            row["svname"]: Target(
                address=Address.parse(row["addr"]),
                status=row["status"],
                check=f"{row['check_status']} {row['last_chk'] or row['check_desc']}".strip(),
                sessions=int(row["scur"]),
                total=int(row["stot"]),
            )
            for row in rows
        }

    def _set(self, slot: str, *settings: str) -> None:
        for setting in settings:
            if said := self._ask(f"set server {BACKEND}/{slot} {setting}").strip():
                raise RuntimeError(f"HAProxy, asked for {setting!r} of {slot}: {said}")

    def _ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_TIME)
            connection.connect(str(self.admin))
            connection.sendall(command.encode() + b"\n")
            with connection.makefile("rb") as answer:
                return answer.read().decode()


class LoadBalancer(Backend, Started):
    """One HAProxy process with one listening address and no targets at first.

    Like a Network Load Balancer it passes TCP on, checks its targets and sends new connections only to
    healthy ones. Unlike it:

    - it deals connections out in turn, where a Network Load Balancer hashes addresses and ports;
    - it leaves the connections of an unhealthy target alone, as a Network Load Balancer does only with
      ``target_health_state.unhealthy.connection_termination.enabled`` false;
    - with no healthy target it refuses, where a Network Load Balancer sends to all of them.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        slots: int = 16,
        check_port: int = 0,
        check_path: str = "",
        interval: float = 0.2,
        rise: int = 2,
        fall: int = 2,
        idle_timeout: float = 350.0,
        prefix: Sequence[str] = (),
    ) -> None:
        """``slots`` is how many targets there may be at once. ``prefix`` is a command that runs HAProxy.

        Targets are checked every ``interval`` seconds (a Network Load Balancer: 5 or more) on
        ``check_port``, or their own port if 0: with HTTP GET ``check_path``, or by connecting if "".
        ``rise`` successes make one healthy, ``fall`` failures make one unhealthy. A connection idle for
        ``idle_timeout`` seconds is ended (350 is a Network Load Balancer's default).
        """
        self.address = Address(host, port or free_ports(1)[0])
        self.check_port = check_port
        self.check_path = check_path
        self.settling_time = interval * (max(rise, fall) + 1)
        """Seconds after which the checks of a new target have told what it is."""
        self._directory = Path(tempfile.mkdtemp(prefix="load-balancer-"))
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__(self._directory / "admin")
        check = f"check inter {interval * 1000:.0f} rise {rise} fall {fall}"
        http = f"option httpchk GET {check_path}\n    http-check expect status 200" if check_path else ""
        self._configuration = f"""
global
    stats socket {self.admin} mode 600 level admin

defaults
    mode tcp
    timeout connect 5s
    timeout check 2s
    timeout client {idle_timeout * 1000:.0f}
    timeout server {idle_timeout * 1000:.0f}
    # A target that refuses is the client's to see: no other target is tried.
    retries 0

listen {BACKEND}
    bind {host}:{self.address.port}
    balance roundrobin
    {http}
    server-template target 1-{slots} 0.0.0.0:1 {check} {f"port {check_port}" if check_port else ""} disabled
"""

    def log(self) -> str:
        path = self._directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Raises RuntimeError, with what HAProxy printed, when it can't start."""
        program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise RuntimeError("haproxy is not installed (Debian, Ubuntu: apt-get install haproxy)")
        configuration = self._directory / "haproxy.cfg"
        configuration.write_text(self._configuration)
        self._process = start(
            [*self._prefix, program, "-db", "-f", str(configuration)], self._directory / "log"
        )
        wait_until(f"HAProxy answers for {self.address}", self._answers)

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"haproxy ended:\n{self.log()}")
        try:
            self.targets()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self._process:
            end(self._process)
        shutil.rmtree(self._directory, ignore_errors=True)
