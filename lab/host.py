"""Hosts that boot a real systemd on this machine, in containers."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.network import Namespace
from lab.processes import Started, end, start, wait_until

BOOT_TIME = 60.0
"""Seconds a boot may take."""
SHUTDOWN_TIME = 10.0
"""Seconds a host may take to end by itself."""

# Arguments: image, directory, host name, network namespace (whose name is the control group's too).
#
# It runs in a mount namespace of its own: what it mounts is seen by nobody else, and goes with it.
# Only cgroup v2 is there, whatever the machine has at /sys/fs/cgroup, and the host gets a group of its own.
# Only the network's part of /proc/sys can be written, since it alone is the host's own.
BOOT = """
set -eu
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/merged"
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$4"
echo $$ >"/sys/fs/cgroup/$4/cgroup.procs"
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_API_VFS_WRITABLE=network TERM=dumb
exec systemd-nspawn --quiet --boot --register=no --keep-unit --link-journal=no --console=read-only \
    --timezone=off --resolv-conf=off --directory="$2/merged" --machine="$3" --hostname="$3" \
    --network-namespace-path="/run/netns/$4" systemd.show_status=yes
"""

# Argument: control group.
END_GROUP = """
set -eu
mount -t cgroup2 cgroup2 /sys/fs/cgroup
group="/sys/fs/cgroup/$1"
test -d "$group" || exit 0
echo 1 >"$group/cgroup.kill"
while grep -q 'populated 1' "$group/cgroup.events"; do sleep 0.01; done
find "$group" -depth -type d -exec rmdir {} ';'
"""

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


class Host(Started):
    """One systemd host. Its disk lasts until ``stop``.

    The thread that starts it has to live as long as the host: the kernel ends the host with it.
    Use ``Hosts`` to boot several at once.
    """

    def __init__(
        self,
        name: str,
        image: Path,
        namespace: Namespace,
        directory: Path,
        *,
        public_key: str,
        hosts: Mapping[str, str],
    ) -> None:
        """``directory`` is for this host alone and must not be on an overlay; it is removed in the end.

        ``public_key`` lets its owner in as the user ops, and ``hosts`` are names and addresses it knows.
        """
        self.name = name
        self.namespace = namespace
        self._image = image
        self._directory = directory
        self._public_key = public_key
        self._hosts = hosts
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return self.namespace.address

    @property
    def pid(self) -> int:
        """The process that holds all of the host; 0 before it starts."""
        return self._process.pid if self._process else 0

    @property
    def host_key(self) -> str:
        """Its line of a known_hosts file."""
        kind, key, *_ = (self._etc / "ssh/ssh_host_ed25519_key.pub").read_text().split()
        return f"{self.name},{self.address} {kind} {key}"

    @property
    def _etc(self) -> Path:
        return self._directory / "upper/etc"

    @property
    def _init(self) -> int:
        """The process id, on this machine, of the host's systemd; 0 when there is none."""
        for supervisor in _children(self.pid):
            for child in _children(supervisor):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                        return child
        return 0

    def start(self) -> None:
        """Boots it on a new disk and waits until it is up. Raises RuntimeError or TimeoutError."""
        self.launch()
        self.wait_until_up()

    def launch(self) -> None:
        """Starts to boot, on a new disk, and does not wait. Raises RuntimeError."""
        self._remove()
        self._make_disk()
        self._boot()

    def _make_disk(self) -> None:
        for part in ("upper", "work", "merged"):
            (self._directory / part).mkdir(parents=True)
        (self._etc / "ssh").mkdir(parents=True)
        (self._etc / "hostname").write_text(f"{self.name}\n")
        (self._etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
        known = {"localhost": "127.0.0.1", self.name: self.address, **self._hosts}
        (self._etc / "hosts").write_text("".join(f"{address} {name}\n" for name, address in known.items()))
        _run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", "ssh_host_ed25519_key"],
            cwd=self._etc / "ssh",
        )
        home = (self._image / "home/ops").stat()
        ssh = self._directory / "upper/home/ops/.ssh"
        ssh.mkdir(parents=True, mode=0o700)
        (ssh / "authorized_keys").write_text(f"{self._public_key.strip()}\n")
        for path in (ssh.parent, ssh, ssh / "authorized_keys"):
            os.chown(path, home.st_uid, home.st_gid)

    def _boot(self) -> None:
        # A process namespace around it all: who kills any process that holds the host kills the whole host.
        self._process = start(
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("sh", "-c", BOOT, "sh", str(self._image), str(self._directory)),
                *(self.name, self.namespace.name),
            ],
            self._directory / "console.log",
        )

    def wait_until_up(self, seconds: float = BOOT_TIME) -> None:
        """Waits until systemd has started everything and sshd answers.

        Raises RuntimeError, with the end of the console's log, when the boot fails, else TimeoutError.
        """
        wait_until(f"{self.name} is up", self._is_up, seconds)

    def _is_up(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended:\n{self.console()[-4000:]}")
        if not self._init:
            return False
        try:
            state = self.run("systemctl", "is-system-running", check=False, timeout=5).strip()
        except subprocess.TimeoutExpired:
            return False
        if state == "maintenance":  # it offers a shell on a console that nobody reads
            raise RuntimeError(f"{self.name} could not boot:\n{self.console()[-4000:]}")
        if state not in ("running", "degraded"):
            return False
        try:
            with socket.create_connection((self.address, 22), timeout=1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def console(self) -> str:
        """What it wrote on its console."""
        return (self._directory / "console.log").read_text(errors="replace")

    def run(
        self,
        *command: str,
        check: bool = True,
        input: str | None = None,  # noqa: A002 as subprocess.run names it
        timeout: float = 30.0,
    ) -> str:
        """Runs a command inside as root, without ssh; returns what it wrote to standard output.

        ``timeout`` is in seconds. Raises RuntimeError when the host is down and, with ``check``, when
        the command fails; subprocess.TimeoutExpired when it takes too long.
        """
        init = self._init
        if not init:
            raise RuntimeError(f"{self.name} is down")
        # setpriv: when the time is over nsenter is killed, and the command must not outlive it.
        inside = ["nsenter", "--all", f"--target={init}", "setpriv", "--pdeathsig=KILL", "--", *command]
        return _run(inside, env=ENVIRONMENT, check=check, stdin=input, timeout=timeout)

    def reboot(self) -> None:
        """Shuts it down and boots it again on the same disk. Raises RuntimeError or TimeoutError."""
        self.shut_down()
        self._end()
        self._boot()
        self.wait_until_up()

    def shut_down(self) -> None:
        """Asks it to end, and does not wait."""
        if init := self._init:
            with contextlib.suppress(ProcessLookupError):
                os.kill(init, signal.SIGRTMIN + 4)  # systemd's poweroff.target

    def _end(self) -> None:
        """Gives it time to end, and ends it."""
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(SHUTDOWN_TIME)
            end(self._process, grace=0)
        _run(["unshare", "--mount", "sh", "-c", END_GROUP, "sh", self.namespace.name])

    def stop(self) -> None:
        """Ends it and removes its disk; what is left of an earlier one goes too. Raises RuntimeError."""
        self.shut_down()
        self._remove()

    def _remove(self) -> None:
        self._end()
        self._process = None
        if self._directory.exists():
            shutil.rmtree(self._directory)


class Hosts(Started):
    """Several hosts that boot and end at the same time."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = hosts

    def start(self) -> None:
        """Raises RuntimeError or TimeoutError."""
        for host in self.hosts:
            host.launch()
        for host in self.hosts:
            host.wait_until_up()

    def stop(self) -> None:
        for host in self.hosts:
            host.shut_down()
        with contextlib.ExitStack() as stack:  # one that can't be stopped does not keep the others
            for host in self.hosts:
                stack.callback(host.stop)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    stdin: str | None = None,
    timeout: float = 30.0,
) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=env, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )
    if check and done.returncode != 0:
        raise RuntimeError(
            f"status {done.returncode} of {' '.join(command)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done.stdout
