"""The life of a fleet on three real systemd hosts, in order: each test goes on where the last one ended.

Releases are built from copies of these sources; the first is 1.0.0.
"""

import json
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab.fleet import HOSTS, PASSWORD, PORT, ROOT, STAT_PORT, Fleet
from lab.load import load
from lab.processes import wait_until
from proxy.address import Address
from proxy.control import Connection
from scripts.build_release import ABOUT, sources
from tests.fleet.conftest import Operator

pytestmark = pytest.mark.timeout(900)

Sources = Callable[..., Path]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Makes sources of another version, with replacements: file=(old, new)."""

    def make(version: str, **replacements: tuple[str, str]) -> Path:
        copy = tmp_path_factory.mktemp("sources")
        for path in [*sources(ROOT), *(ROOT / name for name in ABOUT)]:
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        module = copy / "proxy" / "__init__.py"
        module.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', module.read_text()))
        for name, (old, new) in replacements.items():
            file = copy / "proxy" / f"{name}.py"
            text = file.read_text()
            assert old in text
            file.write_text(text.replace(old, new))
        return copy

    return make


@pytest.fixture(scope="module")
def first(release: Sources) -> Path:
    return release("1.0.0")


@pytest.fixture(scope="module")
def second(release: Sources) -> Path:
    return release("1.1.0")


@pytest.fixture(scope="module")
def deploy(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Runs a verb with builds kept apart from the operator's own."""
    builds = tmp_path_factory.mktemp("builds")

    def play(verb: str, *arguments: str, **options: Any) -> Any:
        return operator.plays(verb, *arguments, proxy_build_dir=builds, proxy_keep_releases=4, **options)

    return play


def status(fleet: Fleet, host: str) -> dict[str, Any]:
    """What a host's proxy tells of itself."""
    url = f"http://{fleet.hosts[host].address}:{STAT_PORT}/status"
    with urllib.request.urlopen(url, timeout=5) as page:
        return dict(json.loads(page.read()))


def versions(fleet: Fleet) -> dict[str, str]:
    return {host: status(fleet, host)["version"] for host in HOSTS}


def targets(fleet: Fleet) -> set[str]:
    """Hosts that the load balancer sends new connections to."""
    up = {address.host for address, target in fleet.balancer.targets().items() if target.up}
    return {name for name, host in fleet.hosts.items() if host.address in up}


def serves(fleet: Fleet) -> bool:
    with Connection.open(Address(fleet.balancer.address.host, PORT), timeout=5) as connection:
        return bool(connection.call("SET", "serves", "yes") == b"OK")


def pid(fleet: Fleet, host: str) -> int:
    return int(fleet.hosts[host].run("systemctl", "show", "-P", "MainPID", "redis-proxy"))


@pytest.fixture
def cut(fleet: Fleet) -> Iterator[Callable[[str], None]]:
    """Makes hosts unreachable until the test is over."""
    done: list[str] = []

    def one(host: str) -> None:
        fleet.hosts[host].namespace.cut()
        done.append(host)

    yield one
    for host in done:
        fleet.hosts[host].namespace.mend()


# --- from clean ------------------------------------------------------------------------------------


def test_check_mode_on_clean_hosts(fleet: Fleet, deploy: Any, first: Path) -> None:
    run = deploy("deploy", "--check", "--diff", proxy_source=first)
    assert "Would install release 1.0.0" in run.output
    for host in fleet.hosts.values():
        assert host.run("ls", "/opt", "/etc/redis-proxy", check=False).split() == ["/opt:"]
    assert not targets(fleet)


def test_a_wrong_variable_is_named(deploy: Any, first: Path) -> None:
    run = deploy("deploy", proxy_source=first, proxy_watchdog="often", fails=True)
    assert "proxy_watchdog" in run.output
    assert run.changed == 0
    run = deploy("deploy", "-e", '{"proxy_settings": {"max_conections": 5}}', proxy_source=first, fails=True)
    assert "max_conections" in run.output
    assert "Supported parameters include" in run.output


def test_deploy_from_clean(fleet: Fleet, deploy: Any, first: Path) -> None:
    run = deploy("deploy", "-vvv", proxy_source=first, wave_batch="100%")
    assert versions(fleet) == dict.fromkeys(HOSTS, "1.0.0")
    assert targets(fleet) == set(HOSTS)
    assert serves(fleet)
    assert PASSWORD not in run.output, "a secret is never shown, however much is"


def test_deploy_again_changes_nothing(fleet: Fleet, deploy: Any, first: Path) -> None:
    before = {host: pid(fleet, host) for host in HOSTS}
    run = deploy("deploy", "--diff", proxy_source=first, wave_batch="100%")
    assert run.changed == 0, run.output
    assert {host: pid(fleet, host) for host in HOSTS} == before


def test_check_mode_on_deployed_hosts(fleet: Fleet, deploy: Any, first: Path) -> None:
    before = {host: pid(fleet, host) for host in HOSTS}
    assert deploy("deploy", "--check", "--diff", proxy_source=first, wave_batch="100%").changed == 0
    new = '{"proxy_settings": {"max_connections": 12345, "threads": 1}}'
    run = deploy("deploy", "--check", "--diff", "-e", new, "--limit", "proxy1", proxy_source=first)
    assert "+max_connections = 12345" in run.output
    assert run.changed > 0
    assert PASSWORD not in run.output
    assert "12345" not in fleet.hosts["proxy1"].run("sh", "-c", "cat /etc/redis-proxy/conf_*.toml")
    assert {host: pid(fleet, host) for host in HOSTS} == before


# --- as it runs ---------------------------------------------------------------------------------------


def test_secrets_are_for_the_service_only(fleet: Fleet) -> None:
    host = fleet.hosts["proxy1"]
    listed = host.run("sh", "-c", f"grep -rls {PASSWORD} /etc /opt /run /tmp /var /usr/lib/systemd || true")
    found = set(listed.split())
    assert found == {"/etc/redis-proxy/conf_cluster.toml", "/etc/redis-proxy/staged/conf_cluster.toml"}
    for path in found:
        assert host.run("stat", "-c", "%a %U %G", path).strip() == "640 root redis-proxy"
    assert host.run("stat", "-c", "%a %U %G", "/etc/redis-proxy").strip() == "750 root redis-proxy"
    assert PASSWORD not in host.run("journalctl", "--no-pager")


def test_the_unit_is_hardened(fleet: Fleet) -> None:
    host = fleet.hosts["proxy1"]
    report = host.run("systemd-analyze", "security", "--no-pager", "redis-proxy.service", check=False)
    exposure = float(re.findall(r"Overall exposure level for \S+: ([\d.]+)", report)[0])
    print(f"systemd-analyze security: {exposure}")
    assert exposure <= 1.5, report
    assert host.run("systemd-analyze", "verify", "redis-proxy.service") == ""
    assert host.run("ps", "-o", "user=", "-p", str(pid(fleet, "proxy1"))).strip() == "redis-proxy"


def test_a_profile_can_be_taken_under_the_hardened_unit(fleet: Fleet) -> None:
    ask = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode())"
    page = "http://127.0.0.1:6060/debug/pprof/profile?seconds=1"
    assert ": worker-" in fleet.hosts["proxy1"].run("python3", "-c", ask, page)


def test_a_log_that_is_a_file_is_rotated(fleet: Fleet, deploy: Any, first: Path) -> None:
    host = fleet.hosts["proxy1"]
    log, rotation = "/var/log/redis-proxy/proxy.log", "/etc/logrotate.d/redis-proxy"
    arguments = ["--limit", "proxy1", "-e", json.dumps({"proxy_settings": {"log": log}})]
    run = deploy("deploy", *arguments, proxy_source=first, fails=True)
    assert "proxy1 has no logrotate" in run.output
    host.run("ln", "-s", "/bin/true", "/usr/sbin/logrotate")  # whether it would rotate is tried in tests/unit
    deploy("deploy", *arguments, proxy_source=first)
    assert "listening on" in host.run("cat", log)
    assert f"\n{log} {{\n    su redis-proxy redis-proxy\n" in host.run("cat", rotation)
    deploy("deploy", "--limit", "proxy1", proxy_source=first)
    assert "redis-proxy" not in host.run("ls", "/etc/logrotate.d")


def test_limits_reach_the_process(fleet: Fleet, deploy: Any, first: Path) -> None:
    """65000 files where the machine grants them; otherwise all it grants, and the play has said how much."""
    host = fleet.hosts["proxy1"]
    granted = int(host.run("sh", "-c", "ulimit -Hn"))
    wanted = min(65000, granted)
    assert host.run("systemctl", "show", "-P", "LimitNOFILE", "redis-proxy").strip() == str(wanted)
    limits = host.run("cat", f"/proc/{pid(fleet, 'proxy1')}/limits")
    assert re.search(rf"Max open files\s+{wanted}\s+{wanted}\s", limits), limits
    assert re.search(r"redis-proxy - nofile", host.run("cat", "/etc/security/limits.d/60-redis-proxy.conf"))
    if granted < 65000:
        run = deploy(
            "deploy", "--limit", "proxy1", proxy_source=first, limits_on_shortfall="fail", fails=True
        )
        assert f"65000 wanted, {granted} granted" in " ".join(run.output.split())


def test_a_killed_proxy_is_started_again_every_time(fleet: Fleet) -> None:
    def is_another(before: int) -> bool:
        return pid(fleet, "proxy1") not in (0, before)

    for _ in range(7):  # more often than systemd's own limit would allow
        before = pid(fleet, "proxy1")
        fleet.hosts["proxy1"].run("kill", "-9", str(before))
        wait_until("systemd has started another", partial(is_another, before))
    wait_until("it is in service", lambda: "proxy1" in targets(fleet))
    assert fleet.hosts["proxy1"].run("systemctl", "is-active", "redis-proxy").strip() == "active"


def test_a_hung_proxy_is_ended_by_the_watchdog(fleet: Fleet, operator: Operator) -> None:
    operator.plays("reconfigure", "--limit", "proxy1", proxy_watchdog=2)
    before = pid(fleet, "proxy1")
    fleet.hosts["proxy1"].run("kill", "-STOP", str(before))
    wait_until("it is another process", lambda: pid(fleet, "proxy1") not in (0, before))
    assert "Watchdog timeout" in fleet.hosts["proxy1"].run("journalctl", "-u", "redis-proxy", "--no-pager")
    wait_until("it is in service", lambda: "proxy1" in targets(fleet))


def test_ad_hoc_commands(fleet: Fleet, operator: Operator) -> None:
    before = {host: pid(fleet, host) for host in HOSTS}
    with load(fleet.balancer.address) as running:
        running.wait_for(100)
        run = operator.says("proxies", "-a", "systemctl restart redis-proxy")
        assert run.status == 0, run.output
        wait_until("all are other processes", lambda: all(pid(fleet, host) != before[host] for host in HOSTS))
    print(f"systemctl restart on all hosts at once: {running.count}")
    assert running.count.failures == []


# --- what changes it --------------------------------------------------------------------------------


def test_restart_under_load(fleet: Fleet, operator: Operator) -> None:
    before = {host: pid(fleet, host) for host in HOSTS}
    with load(fleet.balancer.address) as running:
        running.wait_for(100)
        operator.plays("restart")
    print(f"restart in a wave: {running.count}")
    assert running.count.failures == []
    assert all(pid(fleet, host) != before[host] for host in HOSTS)
    assert targets(fleet) == set(HOSTS)


def test_upgrade_under_load(fleet: Fleet, deploy: Any, second: Path) -> None:
    with load(fleet.balancer.address) as running:
        running.wait_for(100)
        deploy("upgrade", proxy_source=second)
    print(f"upgrade of three hosts: {running.count}")
    assert running.count.failures == []
    assert running.count.requests > 500
    assert versions(fleet) == dict.fromkeys(HOSTS, "1.1.0")
    assert targets(fleet) == set(HOSTS)


def test_a_release_never_changes(deploy: Any, release: Sources) -> None:
    other = release("1.1.0", reply=("import", "import  "))
    run = deploy("upgrade", proxy_source=other, fails=True)
    assert "release 1.1.0 made from other sources" in " ".join(run.output.split())


def test_a_release_that_refuses_its_configuration(fleet: Fleet, deploy: Any, release: Sources) -> None:
    bad = release("1.2.0", config=("    dial_timeout: int", "    connect_timeout: int"))
    before = {host: pid(fleet, host) for host in HOSTS}
    with load(fleet.balancer.address) as running:
        run = deploy("upgrade", proxy_source=bad, fails=True)
    said = " ".join(run.output.split())
    assert "Release 1.2.0 refuses its configuration, and nothing has been switched" in said
    assert "dial_timeout" in said
    assert running.count.failures == []
    assert {host: pid(fleet, host) for host in HOSTS} == before
    assert targets(fleet) == set(HOSTS)


def test_a_release_that_does_not_serve_stops_at_its_batch(
    fleet: Fleet, deploy: Any, release: Sources
) -> None:
    bad = release("1.3.0", listeners=("    client.setblocking(False)", "    raise OSError(5, 'broken')"))
    with load(fleet.balancer.address) as running:
        deploy("upgrade", proxy_source=bad, proxy_prove_timeout=2, fails=True)
    print(f"an upgrade that stopped: {running.count}")
    assert running.count.failures == []
    assert versions(fleet) == {"proxy1": "1.3.0", "proxy2": "1.1.0", "proxy3": "1.1.0"}
    assert targets(fleet) == {"proxy2", "proxy3"}, "what failed is out of service"


def test_rollback_after_a_wave_that_stopped(fleet: Fleet, operator: Operator) -> None:
    before = {host: pid(fleet, host) for host in HOSTS}
    with load(fleet.balancer.address) as running:
        operator.plays("rollback")
    assert running.count.failures == []
    assert versions(fleet) == dict.fromkeys(HOSTS, "1.1.0")
    assert targets(fleet) == set(HOSTS)
    assert {host for host in HOSTS if pid(fleet, host) != before[host]} == {"proxy1"}


def test_rollback_of_the_whole_fleet(fleet: Fleet, operator: Operator) -> None:
    with load(fleet.balancer.address) as running:
        run = operator.plays("rollback", fails=True)
        assert "It is not clear which release to go back to" in " ".join(run.output.split())
        run = operator.plays("rollback", rollback_release="0.9", fails=True)
        assert "no longer has release 0.9" in " ".join(run.output.split())
        operator.plays("rollback", rollback_release="1.0.0", wave_batch="50%")
    assert running.count.failures == []
    assert versions(fleet) == dict.fromkeys(HOSTS, "1.0.0")


def test_a_host_that_can_not_be_reached_stops_the_wave(
    fleet: Fleet, operator: Operator, cut: Callable[[str], None]
) -> None:
    before = {host: pid(fleet, host) for host in HOSTS}
    cut("proxy2")
    run = operator.plays("restart", "-e", "ansible_ssh_timeout=2", fails=True)
    assert run.recap["proxy2"]["unreachable"] == 1
    assert "It has stopped at proxy2; proxy3 and those after it are as before" in " ".join(run.output.split())
    changed = {host for host in HOSTS if pid(fleet, host) != before[host]}
    assert changed == {"proxy1"}, "the canary was before it, and proxy3 would have been after it"
    assert {"proxy1", "proxy3"} <= targets(fleet)
    table = operator.plays("status", "-e", "ansible_ssh_timeout=2").output
    assert re.search(r"proxy2 +- +- +unreachable", table)


def test_it_goes_on_once_the_host_is_back(fleet: Fleet, operator: Operator) -> None:
    wait_until("the load balancer has it again", lambda: targets(fleet) == set(HOSTS))
    operator.plays("restart", wave_batch="100%", proxy_keep_releases=2)
    assert targets(fleet) == set(HOSTS)
    for host in fleet.hosts.values():  # and old releases are gone, but for the one before
        assert set(host.run("ls", "/opt/redis-proxy/releases").split()) == {"1.0.0", "1.1.0"}


def test_reconfigure_reloads_where_that_is_enough(fleet: Fleet, operator: Operator) -> None:
    before = {host: pid(fleet, host) for host in HOSTS}
    with load(fleet.balancer.address) as running:
        running.wait_for(100)
        connects = running.count.connects
        run = operator.plays("reconfigure", "-e", '{"proxy_settings": {"max_connections": 4321}}')
    assert "reload applies [proxy] max_connections" in run.output
    assert running.count.failures == []
    assert running.count.connects == connects, "no connection was dropped"
    assert {host: pid(fleet, host) for host in HOSTS} == before
    assert {status(fleet, host)["config_epoch"] for host in HOSTS} == {2}


def test_reconfigure_restarts_where_it_must(fleet: Fleet, operator: Operator) -> None:
    before = {host: pid(fleet, host) for host in HOSTS}
    with load(fleet.balancer.address) as running:
        running.wait_for(100)
        run = operator.plays("reconfigure", "-e", '{"proxy_settings": {"threads": 1}}')
    assert "restart needed for [proxy] threads" in run.output
    assert running.count.failures == []
    assert all(pid(fleet, host) != before[host] for host in HOSTS)
    again = operator.plays("reconfigure", "--limit", "proxy1", "-e", '{"proxy_settings": {"threads": 1}}')
    assert again.changed == 0, again.output


def test_a_configuration_that_can_not_be_used_changes_nothing(fleet: Fleet, operator: Operator) -> None:
    before = {host: status(fleet, host) for host in HOSTS}
    run = operator.plays("reconfigure", "-e", '{"proxy_settings": {"read_timeout": -1}}', fails=True)
    assert "read_timeout = -1: is out of range" in " ".join(run.output.split())
    for host in HOSTS:
        now = status(fleet, host)
        assert (now["pid"], now["config_epoch"]) == (before[host]["pid"], before[host]["config_epoch"])
        files = fleet.hosts[host].run("cat", "/etc/redis-proxy/conf_proxy.toml")
        assert "read_timeout" not in files


def test_drain_and_undrain_under_load(fleet: Fleet, operator: Operator) -> None:
    with load(fleet.balancer.address) as running:
        operator.plays("drain", "--limit", "proxy2")
        assert targets(fleet) == {"proxy1", "proxy3"}
        state = fleet.hosts["proxy2"].run("systemctl", "is-active", "redis-proxy.socket", check=False)
        assert state.strip() == "inactive"
        assert "proxy2           1.0.0      -          drained" in operator.plays("status").output
        fleet.hosts["proxy2"].reboot()
        assert "proxy2           1.0.0      -          drained" in operator.plays("status").output
        run = operator.plays("restart")
        assert "proxy2 is drained, and left alone" in run.output
        assert targets(fleet) == {"proxy1", "proxy3"}
        operator.plays("undrain", "--limit", "proxy2")
    print(f"drain, restart of the others, undrain: {running.count}")
    assert running.count.failures == []
    assert targets(fleet) == set(HOSTS)


def test_the_whole_fleet_is_not_drained_by_mistake(fleet: Fleet, operator: Operator) -> None:
    run = operator.plays("drain", fails=True)
    assert "name those to drain by --limit" in " ".join(run.output.split())
    assert targets(fleet) == set(HOSTS)


def test_a_reboot(fleet: Fleet) -> None:
    fleet.hosts["proxy3"].reboot()
    wait_until("it is back in service", lambda: "proxy3" in targets(fleet))
    assert status(fleet, "proxy3")["version"] == "1.0.0"


def test_remove(fleet: Fleet, operator: Operator) -> None:
    run = operator.plays("remove", "--limit", "proxy3", remove_confirmed="no", fails=True)
    assert "Nothing has been removed" in run.output
    operator.plays("remove", "--limit", "proxy3", remove_confirmed="yes")
    assert targets(fleet) == {"proxy1", "proxy2"}
    host = fleet.hosts["proxy3"]
    for path in ("/opt/redis-proxy", "/etc/redis-proxy", "/etc/systemd/system/redis-proxy.service"):
        assert host.run("ls", path, check=False) == ""
    assert host.run("id", "redis-proxy", check=False) == ""
    run = operator.plays("upgrade", "--limit", "proxy3", fails=True)
    assert "run playbooks/deploy.yml first" in run.output
