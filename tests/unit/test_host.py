"""What memory there is: the machine's, or a control group's."""

import os
from pathlib import Path

import pytest

from proxy import host
from proxy.host import available_memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our control group's directory; the limits in it and above are files of the test's."""
    (tmp_path / "cgroup").write_text("1:name=systemd:/\n0::/system.slice/proxy.service\n")
    monkeypatch.setattr(host, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(host, "CGROUP_ROOT", tmp_path / "root")
    made = tmp_path / "root" / "system.slice" / "proxy.service"
    made.mkdir(parents=True)
    return made


def test_the_machines_memory_where_nothing_is_limited(group: Path) -> None:
    assert available_memory() == MACHINE
    (group / "memory.max").write_text("max\n")
    assert available_memory() == MACHINE


def test_the_least_limit_of_the_groups_we_are_in(group: Path) -> None:
    (group / "memory.max").write_text("2000000\n")
    assert available_memory() == 2_000_000
    (group.parent / "memory.max").write_text("1000000\n")
    assert available_memory() == 1_000_000
    (group.parent / "memory.max").write_text(f"{MACHINE * 2}\n")
    assert available_memory() == 2_000_000


@pytest.mark.parametrize("text", ["", "4:memory:/old\n"])
def test_without_control_groups_of_version_2(group: Path, text: str) -> None:
    host.CGROUP.write_text(text)
    (group / "memory.max").write_text("1\n")
    assert available_memory() == MACHINE
    host.CGROUP.unlink()
    assert available_memory() == MACHINE
