"""The lab's hosts: that they are what a cloud's are, and that nothing is left of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lab.requirements
from lab.host import Host, Hosts
from lab.image import CACHE, base_image
from lab.network import Network
from lab.processes import wait_until

NETWORK = "rptest"
ADDRESSES = {"one": "10.97.0.11", "two": "10.97.0.12", "three": "10.97.0.13"}


@pytest.fixture(scope="module")
def image() -> Path:
    if reason := lab.requirements.why_not():
        pytest.skip(reason)
    return base_image(CACHE)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def key(directory: Path) -> Path:
    path = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture(scope="module")
def network(image: Path) -> Iterator[Network]:
    del image  # where there can be none, there can be no network
    with Network(NETWORK, "10.97.0.0/24") as started:
        yield started


@pytest.fixture(scope="module")
def new_host(image: Path, network: Network, directory: Path, key: Path) -> Callable[[str], Host]:
    def new_host(name: str) -> Host:
        return Host(
            name,
            image,
            network.namespace(name, int(ADDRESSES[name].rpartition(".")[2])),
            directory / name,
            public_key=key.with_suffix(".pub").read_text(),
            hosts=ADDRESSES,
        )

    return new_host


@pytest.fixture(scope="module")
def pair(new_host: Callable[[str], Host]) -> Iterator[tuple[Host, Host]]:
    with Hosts([new_host("one"), new_host("two")]) as started:
        one, two = started.hosts
        yield one, two


@pytest.fixture
def third(new_host: Callable[[str], Host]) -> Iterator[Host]:
    host = new_host("three")
    yield host
    host.stop()
    subprocess.run(["ip", "netns", "delete", host.namespace.name], check=True)


def ssh(host: Host, key: Path, command: str) -> str:
    known = key.with_name("known_hosts")
    known.write_text(f"{host.host_key}\n")
    options = [f"-oUserKnownHostsFile={known}", "-oStrictHostKeyChecking=yes", "-oBatchMode=yes"]
    called = ["ssh", "-F", "none", "-i", str(key), *options, f"ops@{host.address}", command]
    return subprocess.run(called, capture_output=True, text=True, check=True).stdout.strip()


def reaches(host: Host, other: str) -> bool:
    connect = f"import socket; socket.create_connection(({other!r}, 22), 1)"
    return host.run("sh", "-c", 'python3 -c "$1" 2>&1 && echo yes', "sh", connect, check=False) == "yes\n"


def processes_of(host: Host) -> list[int]:
    """Everything that is in the host's control group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            if f"0::/{host.namespace.name}/" in path.read_text():
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def traces() -> list[str]:
    """What this machine has of the lab's network and hosts."""
    mounts = Path("/proc/mounts").read_text()
    groups = [line.split()[1] for line in mounts.splitlines() if line.split()[2] == "cgroup2"]
    listed = [subprocess.check_output(["ip", what], text=True) for what in ("link", "netns")]
    names = [str(path) for group in groups for path in Path(group).glob(f"{NETWORK}-*")]
    return [line for text in (mounts, *listed, *names) for line in text.splitlines() if NETWORK in line]


def test_hosts_run_systemd_and_are_each_their_own(pair: tuple[Host, Host]) -> None:
    for host in pair:
        assert host.run("systemctl", "is-system-running") == "running\n", host.run("systemctl", "--failed")
        assert host.run("hostname").strip() == host.name
    one, two = pair
    assert one.run("cat", "/etc/machine-id") != two.run("cat", "/etc/machine-id")
    assert one.host_key.split()[2] != two.host_key.split()[2]


def test_hosts_reach_each_other_and_nothing_else(pair: tuple[Host, Host]) -> None:
    one, two = pair
    assert reaches(one, two.name)
    assert reaches(two, one.name)
    assert one.run("ip", "route", "show").split()[:3] == ["10.97.0.0/24", "dev", "eth0"]
    assert "default" not in one.run("ip", "route", "show", "table", "all")


def test_a_host_has_python_and_nothing_to_build_or_install_with(pair: tuple[Host, Host]) -> None:
    host = pair[0]
    host.run("python3", "-c", "import sys; assert sys.version_info >= (3, 11)")
    host.run("python3", "-m", "venv", "--without-pip", "/tmp/environment")
    for module in ("pip", "ensurepip"):
        with pytest.raises(RuntimeError, match="No module named"):
            host.run("python3", "-c", f"import {module}")
    for program in ("pip3", "cc", "gcc", "make"):
        assert host.run("sh", "-c", f"command -v {program}", check=False) == ""


def test_ops_comes_in_by_key_and_is_root_by_sudo(pair: tuple[Host, Host], key: Path) -> None:
    assert ssh(pair[0], key, "id -un; sudo id -un; hostname") == "ops\nroot\none"


def test_a_service_that_dies_is_restarted(pair: tuple[Host, Host]) -> None:
    host = pair[0]
    host.run("systemd-run", "--unit=sleeper", "-p", "Restart=always", "-p", "RestartSec=0", "sleep", "1000")
    pid = "systemctl show -p MainPID --value sleeper"
    before = host.run("sh", "-c", pid)
    host.run("kill", "-9", before.strip())
    wait_until("the service runs again", lambda: host.run("sh", "-c", pid) not in (before, "0\n"))
    host.run("systemctl", "stop", "sleeper")


def test_a_host_that_is_cut_off_is_unreachable_until_mended(pair: tuple[Host, Host]) -> None:
    one, two = pair
    two.namespace.cut()
    assert not reaches(one, two.address)
    two.namespace.mend()
    assert reaches(one, two.address)


def test_input_goes_in_and_failures_come_out(pair: tuple[Host, Host]) -> None:
    host = pair[0]
    assert host.run("cat", input="words") == "words"
    with pytest.raises(RuntimeError, match="why it failed"):
        host.run("sh", "-c", "echo why it failed >&2; exit 1")
    assert host.run("sh", "-c", "echo some; exit 1", check=False) == "some\n"
    with pytest.raises(subprocess.TimeoutExpired):
        host.run("sleep", "1001", timeout=0.2)
    wait_until("nothing runs on", lambda: not host.run("pgrep", "-f", "sleep 1001", check=False))


def test_a_reboot_keeps_the_disk(pair: tuple[Host, Host], key: Path) -> None:
    host = pair[1]
    boot = host.run("sh", "-c", "echo kept >/root/file; systemctl show -p UserspaceTimestampMonotonic")
    host.reboot()
    assert host.run("cat", "/root/file") == "kept\n"
    assert host.run("systemctl", "show", "-p", "UserspaceTimestampMonotonic") != boot
    assert ssh(host, key, "hostname") == host.name


def test_a_host_that_is_killed_is_gone_at_once_and_starts_anew(third: Host) -> None:
    third.start()
    third.run("touch", "/root/file")
    os.kill(third.pid, signal.SIGKILL)
    wait_until("all of it has ended", lambda: not processes_of(third), 5)
    with pytest.raises(RuntimeError, match="is down"):
        third.run("true")
    third.start()
    assert third.run("ls", "/root") == ""


def test_a_host_does_not_outlive_the_lab_that_was_killed(third: Host, image: Path, directory: Path) -> None:
    program = f"""
from pathlib import Path
from lab.host import Host
from lab.network import Namespace
paths = {str(image)!r}, {str(directory / "three")!r}
host = Host("three", Path(paths[0]), {third.namespace!r}, Path(paths[1]), public_key="", hosts={{}})
host.start()
input("up\\n")
"""
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"up\n"
        assert processes_of(third)
        other.kill()
    wait_until("all of it has ended", lambda: not processes_of(third), 5)
    third.start()
    assert third.run("hostname") == "three\n"


def test_a_boot_that_fails_says_why(third: Host, tmp_path: Path) -> None:
    broken = tmp_path / "image"
    (broken / "home/ops").mkdir(parents=True)
    host = Host("three", broken, third.namespace, tmp_path / "host", public_key="", hosts={})
    with pytest.raises(RuntimeError, match="os-release"), host:
        pass
    assert not (tmp_path / "host").exists()


def test_nothing_is_left(network: Network, pair: tuple[Host, Host], directory: Path) -> None:
    assert traces()
    Hosts(pair).stop()
    network.stop()
    assert traces() == []
    assert [pid for host in pair for pid in processes_of(host)] == []
    assert sorted(path.name for path in directory.iterdir()) == ["key", "key.pub", "known_hosts"]


def test_reasons_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: 1000)
        assert "sudo" in str(lab.requirements.why_not())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install apt iproute2 mmdebstrap" in str(lab.requirements.why_not())
