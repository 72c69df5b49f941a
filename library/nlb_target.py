#!/usr/bin/python
# ruff: noqa: E402 (Ansible wants the documentation before the imports)
"""Ansible module: a target in the target group of a Network Load Balancer."""

DOCUMENTATION = r"""
module: nlb_target
short_description: Registers and deregisters a target of a Network Load Balancer, and waits
description:
  - Registers an instance or an IP address with a target group, or deregisters it.
  - It waits until the load balancer sends it connections, or has let go of it, whether or not this run
    changed anything. A target that is still draining is registered again.
  - Runs on the control machine, not on the target.
requirements:
  - boto3
options:
  target_group:
    description: ARN or name of the target group.
    type: str
    required: true
  target_id:
    description:
      - Instance id, if the target type of the group is V(instance), or IP address, if it is V(ip).
    type: str
    required: true
  port:
    description: Port of the target. The target group's port if it is not given.
    type: int
  availability_zone:
    description:
      - Availability zone of an IP address outside the VPC of the target group, such as V(all).
      - Used only to register.
    type: str
  state:
    description:
      - V(present) registers the target, unless it is registered and not draining.
      - V(absent) deregisters it, unless it is gone or draining already.
      - V(info) changes nothing and waits for nothing.
    type: str
    choices: [present, absent, info]
    default: present
  wait:
    description:
      - Whether to wait until this target is healthy (V(present)) or no longer registered (V(absent)).
    type: bool
    default: true
  wait_timeout:
    description: Seconds to wait at most.
    type: float
    default: 300
  wait_interval:
    description: Seconds between two looks at the target.
    type: float
    default: 5
  region:
    description:
      - AWS region. If it is not given, that of the target group's ARN, of the environment or of the profile.
    type: str
  profile:
    description: Profile of the AWS configuration files to use.
    type: str
  endpoint_url:
    description: Address of the API, if it is not AWS's own.
    type: str
notes:
  - Credentials come from where boto3 looks for them, such as the environment (C(AWS_ACCESS_KEY_ID),
    C(AWS_PROFILE) and so on), the configuration files, or the role of the instance this runs on.
  - Needs the IAM actions C(elasticloadbalancing:DescribeTargetGroups),
    C(elasticloadbalancing:DescribeTargetHealth), C(elasticloadbalancing:RegisterTargets) and
    C(elasticloadbalancing:DeregisterTargets).
attributes:
  check_mode:
    description: Says what would change; changes nothing and waits for nothing.
    support: full
  diff_mode:
    description: Shows whether the target is registered, draining or neither, before and after.
    support: full
author:
  - The authors of redis-proxy
"""

EXAMPLES = r"""
- name: Put the host into service, and wait until it gets connections
  nlb_target:
    target_group: redis-proxy
    target_id: "{{ instance_id }}"
    port: 6379
  delegate_to: localhost

- name: Take it out of service, and wait until its connections had the time to end
  nlb_target:
    target_group: arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/proxy/73e2d6bc24d8a067
    target_id: 10.0.1.15
    state: absent
    wait_timeout: 600
  delegate_to: localhost

- name: See how it is
  nlb_target:
    target_group: redis-proxy
    target_id: 10.0.1.15
    state: info
  delegate_to: localhost
  register: health
"""

RETURN = r"""
target:
  description: The target as last seen. In check mode, as it is now.
  returned: once the target group is found
  type: dict
  contains:
    id:
      description: Instance id or IP address.
      type: str
      sample: 10.0.1.15
    port:
      description: Port.
      type: int
      sample: 6379
    state:
      description:
        - State in AWS's words, such as V(initial), V(healthy), V(unhealthy), V(draining) or V(unused).
      type: str
      sample: unhealthy
    reason:
      description: Reason code. Empty if the target is healthy.
      type: str
      sample: Target.FailedHealthChecks
    description:
      description: What AWS adds to the reason. Empty if the target is healthy.
      type: str
      sample: Health checks failed
target_group_arn:
  description: ARN of the target group.
  returned: once the target group is found
  type: str
"""

import difflib
import ipaddress
import os
import re
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ansible.module_utils.basic import (  # type: ignore[import-untyped]
    AnsibleModule,
    missing_required_lib,
)

try:
    import boto3  # type: ignore[import-untyped]
    from botocore import exceptions as aws  # type: ignore[import-untyped]

    BOTO3_ERROR = ""
except ImportError:
    BOTO3_ERROR = traceback.format_exc()

ARGUMENTS: dict[str, dict[str, Any]] = {
    "target_group": {"type": "str", "required": True},
    "target_id": {"type": "str", "required": True},
    "port": {"type": "int"},
    "availability_zone": {"type": "str"},
    "state": {"type": "str", "choices": ["present", "absent", "info"], "default": "present"},
    "wait": {"type": "bool", "default": True},
    "wait_timeout": {"type": "float", "default": 300},
    "wait_interval": {"type": "float", "default": 5},
    "region": {"type": "str"},
    "profile": {"type": "str"},
    "endpoint_url": {"type": "str"},
}
NOT_REGISTERED = "Target.NotRegistered"
HOPELESS = {
    "Target.NotInUse": "no load balancer uses the target group, or not in the target's availability zone",
    "Target.InvalidState": "the instance is stopped or terminated",
    "Target.IpUnusable": "a load balancer uses this IP address itself",
    "Target.HealthCheckDisabled": "the target group's health checks are disabled",
}
"""Reasons for which a target never becomes healthy by itself."""


class TargetError(Exception):
    """What the user is told when it can't be done."""


@dataclass(frozen=True)
class Target:
    """A target, and how its target group sees it: AWS's words, or "" where AWS gives none."""

    id: str
    port: int
    state: str
    reason: str
    description: str

    @property
    def membership(self) -> str:
        if self.reason == NOT_REGISTERED:
            return "not registered"
        return "draining" if self.state == "draining" else "registered"

    def __str__(self) -> str:
        said = ", ".join(text for text in (self.reason, self.description) if text)
        return f"{self.id}:{self.port} is {self.state}" + (f" ({said})" if said else "")


# --- what is to be done: no I/O --------------------------------------------------------------


def must_change(wanted: str, target: Target) -> bool:
    """``wanted`` is present, absent or info."""
    if wanted == "present":
        return target.membership != "registered"
    return wanted == "absent" and target.membership == "registered"


def is_reached(wanted: str, target: Target) -> bool:
    return target.state == "healthy" if wanted == "present" else target.membership == "not registered"


def membership_after(wanted: str, wait: bool) -> str:
    """What a change leaves, if the run does not fail."""
    if wanted == "present":
        return "registered"
    return "not registered" if wait else "draining"


def check_id(target_id: str, target_type: str, group: str) -> None:
    """Raises TargetError when the target group takes another kind of target."""
    wanted = {"instance": "instance ids, such as i-0123456789abcdef0", "ip": "IP addresses"}.get(target_type)
    if wanted is None:
        raise TargetError(
            f"target group {group} has targets of type {target_type}; only instance and ip will do"
        )
    try:
        ipaddress.ip_address(target_id)
        given = "ip"
    except ValueError:
        given = "instance" if re.fullmatch(r"i-[0-9a-f]+", target_id) else ""
    if given != target_type:
        raise TargetError(
            f"target_id {target_id!r} does not fit target group {group}: "
            f"its target type is {target_type}, so it takes {wanted}"
        )


def region_of(group: str) -> str:
    """The region in a target group's ARN; "" for a name."""
    return group.split(":")[3] if re.match(r"arn:[^:]*:elasticloadbalancing:", group) else ""


def explain(error: Exception) -> str:
    """One sentence for what boto3 raised, and what helps."""
    if isinstance(error, aws.NoCredentialsError | aws.PartialCredentialsError | aws.CredentialRetrievalError):
        return (
            f"no AWS credentials ({error}): set profile, AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or run this on an instance that has a role"
        )
    if isinstance(error, aws.NoRegionError):
        return "no AWS region: set region, AWS_REGION, or a region in the profile; or give the group's ARN"
    if isinstance(error, aws.SSOError):
        return f"the AWS single sign-on has expired: log in again with `aws sso login` ({error})"
    if isinstance(error, aws.ConnectionError | aws.HTTPClientError):
        return f"AWS can't be reached: {error}"
    if not isinstance(error, aws.ClientError):
        return str(error)
    code, said = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    if code in ("ExpiredToken", "ExpiredTokenException", "RequestExpired"):
        return f"the AWS credentials have expired: get new ones ({said})"
    if code in ("InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch"):
        return f"AWS does not accept the credentials ({code}: {said})"
    if code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation"):
        return f"the credentials lack the IAM action elasticloadbalancing:{error.operation_name} ({said})"
    return f"{error.operation_name} failed with {code}: {said}"


def wait_for(
    wanted: str,
    look: Callable[[], Target],
    timeout: float,
    interval: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Looks every ``interval`` seconds until the target is as wanted.

    Raises TargetError after ``timeout`` seconds, or at once if it can't become so.
    """
    began = clock()
    goal = "healthy" if wanted == "present" else "deregistered"
    while not is_reached(wanted, target := look()):
        if wanted == "present" and target.reason in HOPELESS:
            raise TargetError(f"{target}; it will not become healthy: {HOPELESS[target.reason]}")
        waited = clock() - began
        if waited >= timeout:
            raise TargetError(f"{target}; waited {waited:.1f} s for it to be {goal}")
        sleep(min(interval, timeout - waited))


# --- AWS -------------------------------------------------------------------------------------


class TargetGroup:
    """One target group. All methods raise botocore's exceptions."""

    def __init__(self, client: Any, name: str) -> None:
        """``name`` is its name or its ARN. Raises TargetError when there is no such group."""
        self._client = client
        key = "TargetGroupArns" if name.startswith("arn:") else "Names"
        try:
            found = client.describe_target_groups(**{key: [name]})["TargetGroups"][0]
        except client.exceptions.TargetGroupNotFoundException as error:
            raise TargetError(self._not_found(name)) from error
        self.arn: str = found["TargetGroupArn"]
        self.port: int = found.get("Port", 0)
        self.type: str = found["TargetType"]

    def _not_found(self, name: str) -> str:
        region = self._client.meta.region_name
        pages = self._client.get_paginator("describe_target_groups").paginate()
        names = [group["TargetGroupName"] for page in pages for group in page["TargetGroups"]]
        wanted = name.split("/")[-2] if name.count("/") > 1 else name
        similar = difflib.get_close_matches(wanted, names, n=5, cutoff=0.5)
        hint = f"; there is {', '.join(similar)}" if similar else f"; there are {len(names)} others"
        return f"no target group {name} in {region}{hint}"

    def look(self, target_id: str, port: int) -> Target:
        """How the group sees this very target, whatever others it has with the same id."""
        try:
            found = self._client.describe_target_health(
                TargetGroupArn=self.arn, Targets=[{"Id": target_id, "Port": port}]
            )["TargetHealthDescriptions"]
        except self._client.exceptions.InvalidTargetException as error:
            # An instance that is no more can't be registered.
            return Target(target_id, port, "unused", NOT_REGISTERED, error.response["Error"]["Message"])
        for one in found:
            if one["Target"]["Id"] == target_id and one["Target"].get("Port", port) == port:
                health = one["TargetHealth"]
                return Target(
                    target_id, port, health["State"], health.get("Reason", ""), health.get("Description", "")
                )
        return Target(target_id, port, "unused", NOT_REGISTERED, "")

    def register(self, target_id: str, port: int, zone: str | None) -> None:
        place = {"AvailabilityZone": zone} if zone else {}
        self._client.register_targets(
            TargetGroupArn=self.arn, Targets=[{"Id": target_id, "Port": port, **place}]
        )

    def deregister(self, target_id: str, port: int) -> None:
        self._client.deregister_targets(TargetGroupArn=self.arn, Targets=[{"Id": target_id, "Port": port}])


def connect(parameters: dict[str, Any]) -> Any:
    """A client of the load balancers' API. Raises botocore's exceptions, or TargetError."""
    # boto3 itself knows AWS_DEFAULT_REGION only; AWS's other tools know AWS_REGION.
    region = parameters["region"] or region_of(parameters["target_group"]) or os.environ.get("AWS_REGION")
    session = boto3.Session(profile_name=parameters["profile"] or None, region_name=region or None)
    try:
        return session.client("elbv2", endpoint_url=parameters["endpoint_url"] or None)
    except ValueError as error:  # what botocore calls an endpoint that is no URL
        raise TargetError(str(error)) from error


def run(parameters: dict[str, Any], check_mode: bool, result: dict[str, Any]) -> None:
    """Does it, and keeps ``result`` up to date, so that a failure tells it too. Raises TargetError."""
    wanted, target_id = parameters["state"], parameters["target_id"]
    group = TargetGroup(connect(parameters), parameters["target_group"])
    check_id(target_id, group.type, parameters["target_group"])
    port = parameters["port"] or group.port
    result["target_group_arn"] = group.arn

    def look() -> Target:
        target = group.look(target_id, port)
        result["target"] = asdict(target)
        return target

    before = look()
    changes = must_change(wanted, before)
    after = membership_after(wanted, parameters["wait"]) if changes else before.membership
    result["diff"] = {"before": {"target": before.membership}, "after": {"target": after}}
    if check_mode or wanted == "info":
        result["changed"] = changes
        return
    if changes:
        if wanted == "present":
            group.register(target_id, port, parameters["availability_zone"])
        else:
            group.deregister(target_id, port)
        result["changed"] = True
    if parameters["wait"]:
        wait_for(wanted, look, parameters["wait_timeout"], parameters["wait_interval"])
    elif changes:
        look()


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    if BOTO3_ERROR:
        module.fail_json(msg=missing_required_lib("boto3"), exception=BOTO3_ERROR)
    if module.params["wait_interval"] <= 0:
        module.fail_json(msg="wait_interval must be more than 0 seconds")
    result: dict[str, Any] = {"changed": False}
    try:
        run(module.params, module.check_mode, result)
    except TargetError as error:
        module.fail_json(msg=str(error), **result)
    except (aws.BotoCoreError, aws.ClientError) as error:
        module.fail_json(msg=explain(error), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
