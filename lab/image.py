"""The root file system that hosts boot from: a clean Debian, as a cloud's image has it and no more."""

import fcntl
import hashlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from lab.processes import end, start

CACHE = Path.home() / ".cache/redis-proxy-lab"
"""Where images are kept, unless told otherwise."""

PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "openssh-server",
    "procps",
    "python3",
    "sudo",
    "systemd",
    "systemd-sysv",
)

MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-networkd.service",
    "systemd-networkd-wait-online.service",
)
"""Units that only cost time without hardware and without the internet."""

# Host keys, the name and the machine's id are each host's own.
CUSTOMISE = f"""
useradd --create-home --shell /bin/bash ops
echo 'ops ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/ops
chmod 440 /etc/sudoers.d/ops
cat >/etc/ssh/sshd_config.d/keys-only.conf <<'EOF'
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
EOF
mkdir -p /etc/systemd/journald.conf.d
printf '[Journal]\\nStorage=volatile\\n' >/etc/systemd/journald.conf.d/volatile.conf
systemctl mask {" ".join(MASKED)}
rm -f /etc/ssh/ssh_host_* /etc/machine-id /var/lib/dbus/machine-id /etc/hostname /etc/resolv.conf
"""

BUILD_TIME = 600.0
"""Seconds a build may take."""


def base_image(
    cache: Path, suite: str = "bookworm", progress: Callable[[str], None] = lambda _: None
) -> Path:
    """The directory of an image of this Debian suite; built when ``cache`` has none with the same contents.

    Packages come from this machine's own Debian sources, and are those of the day it is built.
    Raises RuntimeError, with the end of the build's log, when it can't be built.
    """
    sources = _sources(suite)
    recipe = "\n".join([suite, *sources, *PACKAGES, CUSTOMISE])
    image = cache / f"{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed: whoever else wants an image waits for ours
        if not image.exists():
            for left in cache.glob("building-*"):
                shutil.rmtree(left)
            progress(f"building an image of Debian {suite}; the next start will find it made")
            directory = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
            try:
                _build(directory, suite, sources)
                (directory / "root").rename(image)
            finally:
                shutil.rmtree(directory)
    return image


def _build(directory: Path, suite: str, sources: list[str]) -> None:
    log = directory / "log"
    process = start(
        [
            # Its mounts are nobody else's, and none can be left behind.
            *("unshare", "--mount", "mmdebstrap", "--mode=root", "--variant=minbase"),
            f"--include={','.join(PACKAGES)}",
            f"--customize-hook=chroot \"$1\" sh -eu <<'CUSTOMISE'\n{CUSTOMISE}\nCUSTOMISE",
            *(suite, str(directory / "root"), *sources),
        ],
        log,
    )
    try:
        status = process.wait(BUILD_TIME)
    except subprocess.TimeoutExpired:
        status = -1
    finally:
        end(process)
    if status != 0:
        raise RuntimeError(f"the image could not be built:\n{log.read_text(errors='replace')[-2000:]}")


def _sources(suite: str) -> list[str]:
    """This machine's Debian sources, for ``suite``; none where it has none: mmdebstrap knows Debian's own."""
    own = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    listed = subprocess.run(
        [
            *("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)"),
            *("Created-By: Packages", "Origin: Debian"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = set()
    for line in listed.splitlines():
        uri, name, component = line.split()
        if name in (own, f"{own}-updates", f"{own}-security"):
            found.add(f"deb {uri} {name.replace(own, suite, 1)} {component}")
    return sorted(found)
