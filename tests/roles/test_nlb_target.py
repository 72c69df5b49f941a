"""The module nlb_target and its role, run by Ansible, before real load balancers that really drain."""

import http.server
import itertools
import json
import os
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from lab.aws import AwsStandIn
from lab.load_balancer import LoadBalancer
from lab.processes import Started, free_ports, wait_until
from lab.redis_cluster import RedisServer
from library.nlb_target import Target, TargetError, explain, wait_for
from proxy.address import Address

ROOT = Path(__file__).resolve().parents[2]
PORT, OTHER_PORT, STAT_PORT = free_ports(3)
PATIENCE = 30.0
"""Seconds for what Ansible does at once: it takes two to start, and more on a busy machine."""


class Host(Started):
    """What a load balancer sees of a proxy's host: TCP that says who it is and echoes, and /readyz."""

    def __init__(self, ip: str) -> None:
        self.ip = ip
        self.ready = True
        host = self

        class Echo(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(f"{ip}\n".encode())
                for line in self.rfile:
                    self.wfile.write(line)

        class Stat(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if host.ready and self.path == "/readyz" else 503)
                self.end_headers()

            def log_message(self, format: str, *_: object) -> None:  # noqa: A002
                pass

        ports = ((PORT, Echo), (OTHER_PORT, Echo), (STAT_PORT, Stat))
        self._servers = [socketserver.ThreadingTCPServer((ip, port), kind) for port, kind in ports]

    def address(self, port: int = PORT) -> Address:
        return Address(self.ip, port)

    def start(self) -> None:
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class Connection:
    """A client's connection through a load balancer."""

    def __init__(self, balancer: LoadBalancer) -> None:
        self._socket = socket.create_connection(
            (balancer.address.host, balancer.address.port), timeout=PATIENCE
        )
        self._lines = self._socket.makefile("rb")
        self.host = self._line()
        """The IP address of the host that answers; "" if none does."""

    def _line(self) -> str:
        try:
            return self._lines.readline().decode().strip()
        except ConnectionError:
            return ""

    def lives(self) -> bool:
        try:
            self._socket.sendall(b"still there?\n")
        except ConnectionError:
            return False
        return self._line() == "still there?"

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


def answering(balancer: LoadBalancer, times: int = 6) -> set[str]:
    """Who answers that many new connections."""
    hosts = set()
    for _ in range(times):
        with closing(Connection(balancer)) as connection:
            hosts.add(connection.host)
    return hosts


# --- fixtures --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def balancer() -> Iterator[LoadBalancer]:
    with LoadBalancer(check_port=STAT_PORT, check_path="/readyz", interval=0.1) as running:
        yield running


@pytest.fixture(scope="module")
def aws(balancer: LoadBalancer) -> Iterator[AwsStandIn]:
    with AwsStandIn(balancer, delay=0) as running:
        yield running


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def new_host(numbers: Iterator[int]) -> Iterator[Callable[[], Host]]:
    """Makes hosts with addresses of their own."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Host(f"127.0.77.{next(numbers)}"))


@pytest.fixture
def host(new_host: Callable[[], Host]) -> Host:
    return new_host()


class Group:
    """The first target group, seen and used past Ansible."""

    def __init__(self, aws: AwsStandIn, balancer: LoadBalancer) -> None:
        self._client = aws.client("elbv2")
        self._arn = aws.target_group_arn
        self._balancer = balancer

    def set_delay(self, seconds: int) -> None:
        key = "deregistration_delay.timeout_seconds"
        self._client.modify_target_group_attributes(
            TargetGroupArn=self._arn, Attributes=[{"Key": key, "Value": str(seconds)}]
        )

    def _one(self, host: Host) -> dict[str, Any]:
        return {"TargetGroupArn": self._arn, "Targets": [{"Id": host.ip, "Port": PORT}]}

    def register(self, host: Host) -> None:
        self._client.register_targets(**self._one(host))
        wait_until(f"{host.ip} is healthy", lambda: self.state(host) == "healthy")

    def deregister(self, host: Host) -> None:
        self._client.deregister_targets(**self._one(host))

    def state(self, host: Host) -> str:
        found = self._client.describe_target_health(**self._one(host))["TargetHealthDescriptions"]
        return str(found[0]["TargetHealth"]["State"])


@pytest.fixture
def group(aws: AwsStandIn, balancer: LoadBalancer) -> Iterator[Group]:
    """Empty at the end, and without a deregistration delay unless a test sets one."""
    group = Group(aws, balancer)
    yield group
    group.set_delay(0)
    client, arn = aws.client("elbv2"), aws.target_group_arn
    left = client.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
    for one in left:
        # One that drains still has its delay; registered again, it gets the new one.
        client.register_targets(TargetGroupArn=arn, Targets=[one["Target"]])
        client.deregister_targets(TargetGroupArn=arn, Targets=[one["Target"]])
    wait_until("the group is empty", lambda: not balancer.targets())


class Ansible:
    """Ansible in processes of its own, away from the settings of this machine and this project."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "ANSIBLE_"))},
            **environment,
            "ANSIBLE_HOME": str(directory / "home"),
            "ANSIBLE_LIBRARY": str(ROOT / "library"),
            "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
            "ANSIBLE_NOCOLOR": "1",
        }
        self.started: list[subprocess.Popen[str]] = []

    def _begin(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "ansible", *command],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def begin(self, host: Host | str, *flags: str, **arguments: Any) -> subprocess.Popen[str]:
        """Runs the module for a host; ``arguments`` are the module's."""
        given = {
            "target_group": "redis-proxy",
            "target_id": host.ip if isinstance(host, Host) else host,
            "port": PORT,
            "wait_interval": 0.05,
            "wait_timeout": PATIENCE,
            **arguments,
        }
        return self._begin(
            *("adhoc", "localhost", "-i", "localhost,", "-c", "local"),
            *("-e", f"ansible_python_interpreter={sys.executable}"),
            *("-m", "nlb_target", "-a", json.dumps(given)),
            *flags,
        )

    def result(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """What the module returned, whether it failed, and as ``shown`` all that Ansible printed."""
        shown, _ = process.communicate(timeout=2 * PATIENCE)
        found = re.search(r"^localhost \| (\S+) => (?={)", shown, re.MULTILINE)
        assert found, shown
        result, _ = json.JSONDecoder().raw_decode(shown, found.end())
        return {**result, "failed": found[1] == "FAILED!", "shown": shown}

    def run(self, host: Host | str, *flags: str, **arguments: Any) -> dict[str, Any]:
        return self.result(self.begin(host, *flags, **arguments))

    def play(self, inventory: str, playbook: str) -> subprocess.Popen[str]:
        (self.directory / "hosts.ini").write_text(inventory)
        (self.directory / "play.yml").write_text(playbook)
        return self._begin("playbook", "-i", "hosts.ini", "play.yml")


@pytest.fixture
def ansible(tmp_path: Path, aws: AwsStandIn) -> Iterator[Ansible]:
    running = Ansible(tmp_path, aws.environment)
    yield running
    for process in running.started:
        if process.poll() is None:
            process.kill()
            process.communicate()


# --- registering -----------------------------------------------------------------------------


def test_registering_waits_until_the_checks_pass(
    ansible: Ansible, group: Group, balancer: LoadBalancer, host: Host
) -> None:
    host.ready = False
    process = ansible.begin(host)
    wait_until("it is registered", lambda: group.state(host) != "unused", PATIENCE)
    assert group.state(host) == "initial"
    wait_until("its checks have failed", lambda: group.state(host) == "unhealthy")
    assert answering(balancer) == {""}
    assert process.poll() is None
    host.ready = True
    result = ansible.result(process)
    assert result["changed"]
    assert result["target"] == {
        "id": host.ip,
        "port": PORT,
        "state": "healthy",
        "reason": "",
        "description": "",
    }
    assert answering(balancer) == {host.ip}
    assert not ansible.run(host)["changed"]


def test_it_waits_also_for_what_another_run_registered(ansible: Ansible, group: Group, host: Host) -> None:
    group.register(host)
    host.ready = False
    wait_until("it is unhealthy", lambda: group.state(host) == "unhealthy")
    result = ansible.run(host, wait_timeout=0.5)
    assert result["failed"]
    assert not result["changed"]


def test_a_wait_that_runs_out_says_why(ansible: Ansible, group: Group, host: Host) -> None:
    host.ready = False
    result = ansible.run(host, wait_timeout=1)
    assert result["failed"]
    assert result["changed"]
    assert re.fullmatch(
        rf"{host.ip}:{PORT} is unhealthy \(Target.FailedHealthChecks, Health checks failed\); "
        r"waited 1\.\d s for it to be healthy",
        result["msg"],
    )
    assert result["target"]["state"] == "unhealthy"


def test_without_wait_it_returns_at_once(ansible: Ansible, group: Group, host: Host) -> None:
    host.ready = False
    result = ansible.run(host, wait=False)
    assert result["changed"]
    assert result["target"]["state"] in ("initial", "unhealthy")


def test_a_draining_target_is_registered_again(
    ansible: Ansible, group: Group, balancer: LoadBalancer, host: Host
) -> None:
    group.set_delay(60)
    group.register(host)
    group.deregister(host)
    assert group.state(host) == "draining"
    result = ansible.run(host)
    assert result["changed"]
    assert result["target"]["state"] == "healthy"
    assert answering(balancer) == {host.ip}


def test_targets_are_told_apart_by_port(ansible: Ansible, group: Group, host: Host) -> None:
    group.register(host)
    result = ansible.run(host, port=OTHER_PORT, state="info")
    assert result["target"]["reason"] == "Target.NotRegistered"


# --- deregistering ---------------------------------------------------------------------------


def test_deregistering_drains(
    ansible: Ansible, group: Group, balancer: LoadBalancer, new_host: Callable[[], Host]
) -> None:
    leaving, staying = new_host(), new_host()
    group.set_delay(3)
    group.register(leaving)
    with closing(Connection(balancer)) as existing:
        assert existing.host == leaving.ip
        group.register(staying)
        process = ansible.begin(leaving, state="absent")
        wait_until("it drains", lambda: group.state(leaving) == "draining", PATIENCE)
        began = time.monotonic()
        assert answering(balancer) == {staying.ip}
        assert existing.lives()
        assert process.poll() is None
        result = ansible.result(process)
        assert time.monotonic() - began > 2
        assert result["changed"]
        assert result["target"]["reason"] == "Target.NotRegistered"
        assert list(balancer.targets()) == [staying.address()]
        assert existing.lives(), "this group does not end connections"
    assert not ansible.run(leaving, state="absent")["changed"]


def test_deregistering_waits_for_what_drains_already(ansible: Ansible, group: Group, host: Host) -> None:
    group.set_delay(60)
    group.register(host)
    group.deregister(host)
    result = ansible.run(host, state="absent", wait_timeout=0.5)
    assert result["failed"]
    assert not result["changed"]
    assert "is draining (Target.DeregistrationInProgress" in result["msg"]
    assert "for it to be deregistered" in result["msg"]


# --- check mode, diff mode, info -------------------------------------------------------------


def test_check_mode_changes_nothing(ansible: Ansible, group: Group, host: Host) -> None:
    result = ansible.run(host, "--check", "--diff")
    assert result["changed"]
    assert '-    "target": "not registered"\n+    "target": "registered"\n' in result["shown"]
    assert group.state(host) == "unused"

    group.register(host)
    assert not ansible.run(host, "--check")["changed"]

    result = ansible.run(host, "--check", "--diff", state="absent")
    assert result["changed"]
    assert '-    "target": "registered"\n+    "target": "not registered"\n' in result["shown"]
    assert group.state(host) == "healthy"


def test_info_only_tells(ansible: Ansible, group: Group, aws: AwsStandIn, host: Host) -> None:
    host.ready = False
    result = ansible.run(host, state="info", target_group=aws.target_group_arn)
    assert not result["changed"]
    assert result["target"]["state"] == "unused"
    assert result["target_group_arn"] == aws.target_group_arn


# --- what can't be done ----------------------------------------------------------------------


def test_an_unknown_group_is_told_with_similar_names(ansible: Ansible, host: Host) -> None:
    assert ansible.run(host, target_group="redis-prox")["msg"] == (
        "no target group redis-prox in eu-central-1; there is redis-proxy"
    )


def test_a_group_that_no_load_balancer_uses_fails_at_once(
    ansible: Ansible, aws: AwsStandIn, host: Host
) -> None:
    with LoadBalancer() as idle:
        result = ansible.run(host, target_group=aws.add_target_group("idle", idle, in_use=False))
    assert result["failed"]
    assert "Target.NotInUse" in result["msg"]
    assert "no load balancer uses the target group" in result["msg"]


def test_instances(ansible: Ansible, aws: AwsStandIn) -> None:
    """A group of instances, which has no load balancer behind it: moto alone tells of its targets."""
    ec2, elbv2 = aws.client("ec2"), aws.client("elbv2")
    vpc = ec2.describe_vpcs(Filters=[{"Name": "cidr", "Values": ["10.98.0.0/16"]}])["Vpcs"][0]["VpcId"]
    elbv2.create_target_group(Name="instances", Protocol="TCP", Port=PORT, VpcId=vpc, TargetType="instance")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    instance = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]

    wrong = ansible.run("127.0.0.1", target_group="instances")["msg"]
    assert wrong.startswith(
        "target_id '127.0.0.1' does not fit target group instances: its target type is ins"
    )

    assert ansible.run(instance, target_group="instances")["target"]["state"] == "healthy"
    ec2.stop_instances(InstanceIds=[instance])
    stopped = ansible.run(instance, target_group="instances")["msg"]
    assert "Target.InvalidState" in stopped
    assert "the instance is stopped or terminated" in stopped


def test_an_instance_does_not_fit_a_group_of_addresses(ansible: Ansible) -> None:
    assert ansible.run("i-0123456789abcdef0")["msg"] == (
        "target_id 'i-0123456789abcdef0' does not fit target group redis-proxy: "
        "its target type is ip, so it takes IP addresses"
    )


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("AWS_ACCESS_KEY_ID", "no AWS credentials"),
        ("AWS_DEFAULT_REGION", "no AWS region: set region, AWS_REGION,"),
    ],
)
def test_what_the_environment_lacks(ansible: Ansible, host: Host, missing: str, message: str) -> None:
    del ansible.environment[missing]
    ansible.environment.update(AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull)
    result = ansible.run(host)
    assert result["failed"]
    assert result["msg"].startswith(message)


def test_an_arn_tells_the_region(ansible: Ansible, aws: AwsStandIn, host: Host) -> None:
    del ansible.environment["AWS_DEFAULT_REGION"]
    assert ansible.run(host, target_group=aws.target_group_arn, state="info")["target"]["state"] == "unused"


def test_no_boto3(ansible: Ansible, host: Host, tmp_path: Path) -> None:
    (tmp_path / "boto3.py").write_text("raise ImportError('not here')\n")
    ansible.environment["PYTHONPATH"] = str(tmp_path)
    assert "Failed to import the required Python library (boto3)" in ansible.run(host)["msg"]


def test_an_endpoint_where_nobody_is(ansible: Ansible, host: Host) -> None:
    ansible.environment["AWS_MAX_ATTEMPTS"] = "1"
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    assert ansible.run(host, endpoint_url=url)["msg"].startswith("AWS can't be reached: Could not connect to")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ExpiredToken", "the AWS credentials have expired: get new ones (so it says)"),
        (
            "AccessDenied",
            "the credentials lack the IAM action elasticloadbalancing:RegisterTargets (so it says)",
        ),
        ("InvalidClientTokenId", "AWS does not accept the credentials (InvalidClientTokenId: so it says)"),
        ("TooManyTargets", "RegisterTargets failed with TooManyTargets: so it says"),
    ],
)
def test_what_aws_refuses(code: str, message: str) -> None:
    assert (
        explain(ClientError({"Error": {"Code": code, "Message": "so it says"}}, "RegisterTargets")) == message
    )


def test_a_wait_looks_a_last_time_when_it_runs_out() -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    target = Target("10.0.0.1", 6379, "initial", "Elb.InitialHealthChecking", "")
    with pytest.raises(TargetError, match=r"waited 12\.0 s"):
        wait_for("present", lambda: target, 12, 5, clock=lambda: now, sleep=sleep)


# --- the role --------------------------------------------------------------------------------

# Like a fleet's inventory: what holds for its hosts would not work on the control machine.
INVENTORY = """
localhost
[fleet]
proxy-1 ansible_host={ip}
[all:vars]
ansible_connection=ssh
ansible_become=true
ansible_become_user=nobody
ansible_become_exe=/nonexistent
ansible_python_interpreter=/nonexistent
"""
PLAY = """
- hosts: fleet
  gather_facts: false
  vars:
    nlb_target_groups: {groups}
    nlb_target_wait_interval: 0.05
  tasks:
    - ansible.builtin.import_role:
        name: nlb_target
    - ansible.builtin.import_role:
        name: nlb_target
        tasks_from: info
    - ansible.builtin.assert:
        that: nlb_target_health | map(attribute='state') == {healthy}
    - ansible.builtin.assert:
        that: nlb_target_health | map(attribute='group') == nlb_target_groups | map(attribute='group')
    - ansible.builtin.import_role:
        name: nlb_target
        tasks_from: deregister
    - ansible.builtin.import_role:
        name: nlb_target
        tasks_from: info
    - ansible.builtin.assert:
        that: nlb_target_health | map(attribute='reason') == {gone}
"""


def test_the_role_with_two_groups(ansible: Ansible, aws: AwsStandIn, host: Host) -> None:
    with ExitStack() as stack:
        balancers = [
            stack.enter_context(LoadBalancer(check_port=STAT_PORT, check_path="/readyz", interval=0.1))
            for _ in range(2)
        ]
        first, second = balancers
        name = f"by-name-{first.address.port}"
        aws.add_target_group(name, first, delay=3)
        arn = aws.add_target_group(f"by-arn-{second.address.port}", second, delay=3)
        play = ansible.play(
            INVENTORY.format(ip=host.ip),
            PLAY.format(
                groups=json.dumps([{"group": name, "port": PORT}, {"group": arn, "port": OTHER_PORT}]),
                healthy=["healthy", "healthy"],
                gone=["Target.NotRegistered", "Target.NotRegistered"],
            ),
        )
        seen: list[set[str]] = []
        while play.poll() is None:
            now = {target.status for balancer in balancers for target in balancer.targets().values()}
            seen.append(now if all(balancer.targets() for balancer in balancers) else set())
            time.sleep(0.02)
        shown, _ = play.communicate()
        assert play.returncode == 0, shown
        assert {"UP"} in seen
        assert {"DRAIN"} in seen, "both drained at the same time"
        assert not first.targets()
        assert not second.targets()


def test_the_role_without_groups_needs_no_aws(ansible: Ansible, host: Host) -> None:
    ansible.environment["AWS_ENDPOINT_URL"] = "http://127.0.0.1:1"
    play = ansible.play(INVENTORY.format(ip=host.ip), PLAY.format(groups=[], healthy=[], gone=[]))
    shown, _ = play.communicate(timeout=PATIENCE)
    assert play.returncode == 0, shown
    assert re.search(r"proxy-1 +: .*changed=0", shown)


# --- the stand-ins ---------------------------------------------------------------------------


def test_connections_to_an_unhealthy_target_go_on(group: Group, balancer: LoadBalancer, host: Host) -> None:
    group.register(host)
    with closing(Connection(balancer)) as existing:
        host.ready = False
        wait_until("it is unhealthy", lambda: group.state(host) == "unhealthy")
        assert existing.lives()
        assert answering(balancer, 1) == {""}
        assert balancer.targets()[host.address()].sessions == 1
        assert balancer.targets()[host.address()].check.startswith("L7STS")


def test_connections_are_ended_after_the_delay_if_the_group_says_so(aws: AwsStandIn, host: Host) -> None:
    with LoadBalancer(interval=0.1) as balancer:
        arn = aws.add_target_group(f"ends-{balancer.address.port}", balancer, delay=1, end_connections=True)
        client = aws.client("elbv2")
        targets = {"TargetGroupArn": arn, "Targets": [{"Id": host.ip, "Port": PORT}]}
        client.register_targets(**targets)
        wait_until("it is up", lambda: balancer.targets()[host.address()].up)
        with closing(Connection(balancer)) as existing:
            client.deregister_targets(**targets)
            assert existing.lives()
            wait_until("it is gone", lambda: not balancer.targets())
            wait_until("its connection has ended", lambda: not existing.lives())


def test_targets_are_checked_on_their_own_port_by_connecting() -> None:
    with RedisServer() as server, LoadBalancer(interval=0.1, slots=1) as balancer:
        balancer.add(server.address)
        assert not balancer.targets()[server.address].up, "no connections before the checks have passed"
        wait_until("it is up", lambda: balancer.targets()[server.address].up)
        with pytest.raises(RuntimeError, match="all 1 slots"):
            balancer.add(Address("127.0.0.1", server.port + 1))
        server.kill()
        wait_until("it is down", lambda: balancer.targets()[server.address].status == "DOWN")
        assert balancer.targets()[server.address].check == "L4CON Connection refused"
        balancer.remove(server.address)
        with pytest.raises(RuntimeError, match="is not a target"):
            balancer.drain(server.address)
