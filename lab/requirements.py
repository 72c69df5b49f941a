"""What a machine needs to have lab hosts."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAMS = {
    "apt-get": "apt",
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount",
    "nsenter": "util-linux",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
}
"""Each program and its Debian package."""

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

MEMORY = 512 * 2**20
"""Bytes; a host with nothing on it uses about 20 MB."""
DISK = 2 * 2**30
"""Bytes; an image is about 300 MB, twice that while it is built."""

# Each is tried in namespaces of its own, so that nothing is left of it.
TRIALS = {
    "namespaces can't be made here: run as root of the machine, or of a container with --privileged": "true",
    "links can't be made here: load the kernel's modules bridge and veth": (
        "ip link add br0 type bridge && ip link add v0 type veth peer name v1"
    ),
    "overlayfs can't be mounted on temporary files: load the kernel's module overlay, or set TMPDIR"
    " to a directory of a plain file system such as ext4": (
        "mkdir lower upper work merged &&"
        " mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged"
    ),
    "control groups can't be made here: cgroup v2 of Linux 5.14 or newer is needed": (
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup && d=$(mktemp -d /sys/fs/cgroup/try.XXXXXX) &&"
        " { test -e $d/cgroup.kill; status=$?; rmdir $d; exit $status; }"
    ),
}


def why_not(*, installed: bool = True) -> str | None:
    """Why this machine can't have lab hosts, and what to do about it; None when it can.

    Unless ``installed``, packages may still be missing, and what needs them is not tried.
    """
    if sys.platform != "linux":
        return "lab hosts need Linux: run this in a virtual machine with Debian or Ubuntu"
    if os.geteuid() != 0:
        return "lab hosts need root: run this with sudo"
    missing = {package for program, package in PROGRAMS.items() if not shutil.which(program)}
    if not KEYRING.exists():  # on Ubuntu
        missing.add("debian-archive-keyring")
    if missing and installed:
        return f"packages are missing: apt-get install {' '.join(sorted(missing))}"
    if (free := _available_memory()) < MEMORY:
        return f"{free >> 20} MB of memory are free: make it {MEMORY >> 20}"
    if (free := shutil.disk_usage(tempfile.gettempdir()).free) < DISK:
        return f"{tempfile.gettempdir()} has {free >> 20} MB free: make it {DISK >> 20}, or set TMPDIR"
    with tempfile.TemporaryDirectory() as directory:
        for reason, trial in TRIALS.items():
            if missing and not shutil.which(trial.split()[0]):
                continue
            tried = subprocess.run(
                [
                    *("unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc"),
                    *("sh", "-c", trial),
                ],
                cwd=directory,
                capture_output=True,
                text=True,
                check=False,
            )
            if tried.returncode != 0:
                return f"{reason} ({tried.stderr.strip()})"
    return None


def main() -> int:
    """For set-up, before it installs anything."""
    if reason := why_not(installed=False):
        print(f"lab: {reason}", file=sys.stderr)
        return 1
    return 0


def _available_memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024


if __name__ == "__main__":
    sys.exit(main())
