"""The AWS API on loopback, with target groups that follow real load balancers.

It is moto's server with one thing put right. moto's targets are healthy as soon as they are registered and
gone as soon as they are deregistered, so a rollout that waits for neither would pass a test against it.
Here a target group has an HAProxy behind it: a target is ``initial`` until HAProxy's checks pass, ``healthy``
or ``unhealthy`` as they say, and ``draining`` for the group's deregistration delay, while HAProxy really
drains it.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
from moto.elbv2.models import ELBv2Backend, FakeHealthStatus, elbv2_backends
from moto.server import main as serve

from lab.load_balancer import Backend, LoadBalancer
from lab.processes import Started, end, free_ports, start, wait_until
from proxy.address import Address

REGION = "eu-central-1"
ADMIN_TAG = "lab:haproxy"
"""The tag of a target group that names the admin socket of its HAProxy."""
SETTLING_TAG = "lab:settling-time"
"""The tag that tells for how many seconds a new target is initial, at most."""
HERE = Path(__file__).resolve().parent


# --- in the server's process -----------------------------------------------------------------


class Group:
    """The targets of one target group: what moto should know, and what HAProxy makes of it."""

    def __init__(self, backend: Backend, settling_time: float) -> None:
        self._backend = backend
        self._settling_time = settling_time
        self._lock = threading.Lock()
        self._initial_until: dict[Address, float] = {}
        """Of each registered target, when its checks must have told; 0 once they have."""
        self._draining: dict[Address, threading.Timer] = {}

    @property
    def targets(self) -> list[Address]:
        with self._lock:
            return [*self._initial_until, *self._draining]

    def register(self, target: Address) -> None:
        with self._lock:
            if timer := self._draining.pop(target, None):
                timer.cancel()
            if target not in self._initial_until:
                self._backend.add(target)
                self._initial_until[target] = time.monotonic() + self._settling_time

    def deregister(self, target: Address, delay: float, *, end_connections: bool) -> None:
        """``delay`` is in seconds."""
        with self._lock:
            if self._initial_until.pop(target, None) is None:
                return
            self._backend.drain(target)
            timer = threading.Timer(delay, lambda: self._remove(target, timer, end_connections))
            timer.daemon = True
            self._draining[target] = timer
            timer.start()

    def _remove(self, target: Address, timer: threading.Timer, end_connections: bool) -> None:
        with self._lock:
            if self._draining.get(target) is timer:  # not registered again meanwhile
                self._backend.remove(target, end_connections=end_connections)
                del self._draining[target]

    def health(self, target: Address, *, in_use: bool) -> tuple[str, str | None, str | None]:
        """State, reason and description, in AWS's words."""
        with self._lock:
            if target in self._draining:
                return "draining", "Target.DeregistrationInProgress", "Target deregistration is in progress"
            if target not in self._initial_until:
                return "unused", "Target.NotRegistered", "Target is not registered to the target group"
            if not in_use:
                text = "Target group is not configured to receive traffic from the load balancer"
                return "unused", "Target.NotInUse", text
            if self._backend.targets()[target].up:
                self._initial_until[target] = 0
                return "healthy", None, None
            if time.monotonic() < self._initial_until[target]:
                return "initial", "Elb.InitialHealthChecking", "Initial health checks in progress"
            self._initial_until[target] = 0
            return "unhealthy", "Target.FailedHealthChecks", "Health checks failed"


class FollowingBackend(ELBv2Backend):
    """moto's load balancers, but target groups that have an HAProxy follow it."""

    __module__ = ELBv2Backend.__module__  # moto finds a backend's URLs by its module

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self._groups: dict[str, Group] = {}

    def register_targets(self, target_group_arn: str, instances: list[Any]) -> None:
        if group := self._group(target_group_arn):
            for target in instances:
                group.register(self._address(target_group_arn, target))
        else:
            super().register_targets(target_group_arn, instances)

    def deregister_targets(self, target_group_arn: str, instances: list[dict[str, Any]]) -> None:
        if group := self._group(target_group_arn):
            attributes = self.target_groups[target_group_arn].attributes
            for target in instances:
                group.deregister(
                    self._address(target_group_arn, target),
                    float(str(attributes["deregistration_delay.timeout_seconds"])),
                    end_connections=attributes.get("deregistration_delay.connection_termination.enabled")
                    == "true",
                )
        else:
            super().deregister_targets(target_group_arn, instances)

    def describe_target_health(
        self, target_group_arn: str, targets: list[dict[str, Any]]
    ) -> list[FakeHealthStatus]:
        group = self._group(target_group_arn)
        if group is None:
            return super().describe_target_health(target_group_arn, targets)
        described = self.target_groups[target_group_arn]
        wanted = [self._address(target_group_arn, target) for target in targets] or group.targets
        return [
            FakeHealthStatus(
                target.host,
                str(target.port),
                described.health_check_port,
                *group.health(target, in_use=bool(described.load_balancer_arns)),
            )
            for target in wanted
        ]

    def _address(self, arn: str, target: Mapping[str, Any]) -> Address:
        return Address(target["Id"], int(target.get("Port") or self.target_groups[arn].port))

    def _group(self, arn: str) -> Group | None:
        """None for a target group without an HAProxy, and for one that does not exist."""
        tags = self.describe_tags([arn])[arn] if arn in self.target_groups else {}
        if ADMIN_TAG not in tags:
            return None
        return self._groups.setdefault(arn, Group(Backend(Path(tags[ADMIN_TAG])), float(tags[SETTLING_TAG])))


def main() -> None:
    elbv2_backends.backend = FollowingBackend
    serve(["-H", "127.0.0.1", "-p", sys.argv[1]])


# --- in the process that starts it -----------------------------------------------------------


class AwsStandIn(Started):
    """A moto server of its own process, with a VPC, a Network Load Balancer and a first target group."""

    def __init__(
        self, balancer: LoadBalancer, *, port: int = 0, delay: int = 1, end_connections: bool = False
    ) -> None:
        """``balancer`` must run already; the first target group follows it.

        ``delay`` and ``end_connections`` are as in ``add_target_group``.
        """
        self.port = port or free_ports(1)[0]
        self.region = REGION
        self.endpoint_url = f"http://127.0.0.1:{self.port}"
        self.target_group_arn = ""
        self._first = (balancer, delay, end_connections)
        self._directory = Path(tempfile.mkdtemp(prefix="aws-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._vpc = ""
        self._nlb = ""

    @property
    def environment(self) -> dict[str, str]:
        """What Ansible, boto3 and the AWS CLI need in their environment to use it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": self.region,
            # Ansible masks secrets wherever they occur, so they must occur nowhere else.
            "AWS_ACCESS_KEY_ID": "lab-access-key-id",
            "AWS_SECRET_ACCESS_KEY": "lab-secret-access-key",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str) -> Any:
        """A boto3 client of it, such as ``elbv2``."""
        return boto3.client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )

    def log(self) -> str:
        path = self._directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Raises RuntimeError, with what it printed, when it can't start."""
        self._process = start(
            [sys.executable, "-m", "lab.aws", str(self.port)], self._directory / "log", cwd=HERE.parent
        )
        wait_until("the AWS stand-in answers", self._answers)
        ec2 = self.client("ec2")
        self._vpc = ec2.create_vpc(CidrBlock="10.98.0.0/16")["Vpc"]["VpcId"]
        subnets = [
            ec2.create_subnet(
                VpcId=self._vpc,
                CidrBlock=f"10.98.{128 + number}.0/24",
                AvailabilityZone=f"{self.region}{zone}",
            )["Subnet"]["SubnetId"]
            for number, zone in enumerate("ab")
        ]
        self._nlb = self.client("elbv2").create_load_balancer(
            Name="redis-proxy", Type="network", Scheme="internal", Subnets=subnets
        )["LoadBalancers"][0]["LoadBalancerArn"]
        balancer, delay, end_connections = self._first
        self.target_group_arn = self.add_target_group(
            "redis-proxy", balancer, delay=delay, end_connections=end_connections
        )

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the AWS stand-in ended:\n{self.log()}")
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True

    def add_target_group(
        self,
        name: str,
        balancer: LoadBalancer,
        *,
        delay: int = 1,
        end_connections: bool = False,
        in_use: bool = True,
    ) -> str:
        """Makes a target group of ip targets that follows a load balancer; returns its ARN.

        ``delay`` is its deregistration delay in seconds, after which ``end_connections`` ends what is left.
        Unless ``in_use`` is false, it gets a listener on the balancer's port.
        """
        elbv2 = self.client("elbv2")
        port = balancer.address.port
        protocol = {"HealthCheckProtocol": "TCP"}
        if balancer.check_path:
            protocol = {"HealthCheckProtocol": "HTTP", "HealthCheckPath": balancer.check_path}
        arn: str = elbv2.create_target_group(
            Name=name,
            Protocol="TCP",
            Port=port,
            VpcId=self._vpc,
            TargetType="ip",
            HealthCheckPort=str(balancer.check_port or "traffic-port"),
            Tags=[
                {"Key": ADMIN_TAG, "Value": str(balancer.admin)},
                {"Key": SETTLING_TAG, "Value": f"{balancer.settling_time:g}"},
            ],
            **protocol,
        )["TargetGroups"][0]["TargetGroupArn"]
        elbv2.modify_target_group_attributes(
            TargetGroupArn=arn,
            Attributes=[
                {"Key": "deregistration_delay.timeout_seconds", "Value": str(delay)},
                {
                    "Key": "deregistration_delay.connection_termination.enabled",
                    "Value": str(end_connections).lower(),
                },
            ],
        )
        if in_use:
            elbv2.create_listener(
                LoadBalancerArn=self._nlb,
                Protocol="TCP",
                Port=port,
                DefaultActions=[{"Type": "forward", "TargetGroupArn": arn}],
            )
        return arn

    def stop(self) -> None:
        if self._process:
            end(self._process)
        shutil.rmtree(self._directory, ignore_errors=True)


if __name__ == "__main__":
    main()
