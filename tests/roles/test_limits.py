"""The role limits on a real host. Tests go on where the one before stopped."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.roles.roles_host import RolesHost, host

__all__ = ["host"]

UNIT = """\
[Service]
ExecStart=/bin/sleep infinity
"""
DROP_IN = "/etc/systemd/system/redis-proxy.service.d/limits.conf"
SYSCTL = "/etc/sysctl.d/60-redis-proxy.conf"
SECURITY = "/etc/security/limits.d/60-redis-proxy.conf"

# More than any kernel grants: nowhere is fs.nr_open that high unless somebody set it.
TOO_MUCH = {"nofile": 1073741816, "on_shortfall": "warn"}
ENOUGH = {"nofile": 8192, "nproc": 4096}


def _property(host: RolesHost, name: str) -> str:
    return host.run(f"systemctl show --property {name} --value redis-proxy.service")


def _process_limits(host: RolesHost) -> dict[str, tuple[str, str]]:
    """Soft and hard limits of the service's process."""
    lines = host.run(f"cat /proc/{_property(host, 'MainPID')}/limits").splitlines()
    files, processes = (
        next(line for line in lines if line.startswith(name)).removeprefix(name).split()
        for name in ("Max open files", "Max processes")
    )
    return {"nofile": (files[0], files[1]), "nproc": (processes[0], processes[1])}


def _sysctl(host: RolesHost, name: str) -> list[str]:
    return host.run(f"cat /proc/sys/{name.replace('.', '/')}").split()


def test_a_check_of_a_clean_host_shows_and_changes_nothing(host: RolesHost) -> None:
    played = host.play("limits", ENOUGH, check=True)
    assert played.status == 0, played.output
    for line in ("+LimitNOFILE=8192", "+redis-proxy - nproc 4096", "+net.core.somaxconn = 16384"):
        assert line in played.output
    assert not any(map(host.exists, (DROP_IN, SYSCTL, SECURITY)))


def test_a_shortfall_fails_and_says_how_much_there_is(host: RolesHost) -> None:
    played = host.play("limits", TOO_MUCH | {"on_shortfall": "fail"})
    assert played.status != 0
    assert "limits_nofile: 1073741816 wanted, " in played.said
    assert "limits_on_shortfall: warn" in played.said
    assert not any(map(host.exists, (DROP_IN, SECURITY)))


def test_or_it_goes_on_with_what_there_is(host: RolesHost) -> None:
    played = host.play("limits", TOO_MUCH)
    assert played.status == 0, played.output
    granted = host.run(f"sed -n s/LimitNOFILE=//p {DROP_IN}")
    assert f"limits_nofile: 1073741816 wanted, {granted} granted" in played.said
    assert f"root - nofile {granted}" in host.run(f"cat {SECURITY}")
    # What it says is granted, a service does get.
    host.write("/etc/systemd/system/redis-proxy.service", UNIT)
    host.run("systemctl daemon-reload && systemctl start redis-proxy.service")
    assert _process_limits(host)["nofile"] == (granted, granted)
    again = host.play("limits", TOO_MUCH)
    assert (again.status, again.changed) == (0, 0), again.output


def test_a_service_that_runs_keeps_its_limits_and_the_play_says_so(host: RolesHost) -> None:
    played = host.play("limits", ENOUGH)
    assert played.status == 0, played.output
    assert "8192 wanted; restart it" in played.said
    assert _property(host, "LimitNOFILE") == "8192"
    verified = host.play("limits", ENOUGH, entry="verify")
    assert verified.status != 0
    assert "redis-proxy.service: its process has nofile " in verified.said


def test_after_a_restart_the_limits_are_in_force(host: RolesHost) -> None:
    host.run("systemctl restart redis-proxy.service")
    verified = host.play("limits", ENOUGH, entry="verify")
    assert (verified.status, verified.changed) == (0, 0), verified.output
    assert _process_limits(host) == {"nofile": ("8192", "8192"), "nproc": ("4096", "4096")}


def test_kernel_settings_are_in_force(host: RolesHost) -> None:
    assert _sysctl(host, "net.core.somaxconn") == ["16384"]
    assert _sysctl(host, "net.ipv4.tcp_max_syn_backlog") == ["16384"]
    assert _sysctl(host, "net.ipv4.ip_local_port_range") == ["10240", "65535"]
    assert _sysctl(host, "net.ipv4.tcp_slow_start_after_idle") == ["0"]


@pytest.mark.parametrize("check", [False, True], ids=["again", "check"])
def test_a_second_run_changes_nothing(host: RolesHost, check: bool) -> None:
    played = host.play("limits", ENOUGH, check=check)
    assert (played.status, played.changed) == (0, 0), played.output


def test_what_somebody_set_by_hand_is_set_back(host: RolesHost) -> None:
    host.run("echo 128 >/proc/sys/net/core/somaxconn")
    played = host.play("limits", ENOUGH)
    assert (played.status, played.changed) == (0, 1), played.output
    assert _sysctl(host, "net.core.somaxconn") == ["16384"]


def test_a_kernel_setting_that_cannot_be_had_is_named(host: RolesHost) -> None:
    # The host's kernel is this machine's, and what is not the network's is read-only.
    swappiness = _sysctl(host, "vm.swappiness")[0]
    wanted = {
        "sysctl": {"vm.swappiness": int(swappiness) + 1, "net.core.nonsense": 1, "net.core.somaxconn": 256}
    }
    played = host.play("limits", ENOUGH | wanted)
    assert played.status != 0
    assert f"limits_sysctl vm.swappiness: {int(swappiness) + 1} wanted, {swappiness} in force" in played.said
    assert (
        "limits_sysctl net.core.nonsense: 1 wanted, the kernel of this host does not have it" in played.said
    )
    assert _sysctl(host, "net.core.somaxconn") == ["256"]
    again = host.play("limits", ENOUGH | wanted | {"on_shortfall": "warn"})
    assert (again.status, again.changed) == (0, 0), again.output
    assert f"limits_sysctl vm.swappiness: {int(swappiness) + 1} wanted" in again.said


def test_another_drop_in_that_says_otherwise_is_told(host: RolesHost) -> None:
    other = DROP_IN.replace("limits.conf", "override.conf")
    host.write(other, "[Service]\nLimitNOFILE=2048\n")
    host.run("systemctl daemon-reload")
    played = host.play("limits", ENOUGH)
    assert played.status != 0
    assert "redis-proxy.service: LimitNOFILE is 2048, 8192 wanted; another drop-in says so" in played.said


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"nofile": "many"}, "argument 'limits_nofile' is of type"),
        ({"nofile": 100}, "limits_nofile is 100; it must be 1024 to"),
        ({"on_shortfall": "ignore"}, "value of limits_on_shortfall must be one of: fail, warn"),
        ({"units": ["redis-proxy"]}, "limits_units has redis-proxy; it must be the full name"),
        ({"users": ["a b"]}, "limits_users has a b;"),
        ({"sysctl": {"somaxconn": 1}}, "limits_sysctl has somaxconn: 1;"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_variable_is_named(host: RolesHost, variables: Mapping[str, Any], complaint: str) -> None:
    played = host.play("limits", variables)
    assert played.status != 0
    assert complaint in played.said
