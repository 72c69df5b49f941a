"""The inventories: what operators start from, and what is found by tags."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lab.aws import AwsStandIn
from lab.load_balancer import LoadBalancer
from scripts.build_release import ROOT

PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))


def run(program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    result = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def listed(inventory: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    text = run("ansible-inventory", "-i", inventory, "--list", environment=environment)
    # What comes from AWS is marked as not to be templated.
    return dict(json.loads(text, object_hook=lambda value: value.get("__ansible_unsafe", value)))


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: path.stem)
def test_syntax(playbook: Path) -> None:
    run("ansible-playbook", "-i", "inventory/example.yml", "--syntax-check", str(playbook))


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: path.stem)
def test_a_head_says_what_it_does_with_an_example(playbook: Path) -> None:
    head = playbook.read_text().split("\n- name:")[0]
    assert f"ansible-playbook playbooks/{playbook.name} -i inventory/" in head


@pytest.mark.parametrize("name", ["example", "lab"])
def test_a_static_inventory(name: str) -> None:
    found = listed(f"inventory/{name}.yml")
    assert set(found["proxies"]["hosts"]) == {"proxy1", "proxy2", "proxy3"}
    assert found["canary"]["hosts"] == ["proxy1"]
    variables = found["_meta"]["hostvars"]["proxy2"]
    assert variables["ansible_become"] is True
    assert variables["proxy_clusters"][0]["servers"]


@pytest.fixture
def aws() -> Iterator[AwsStandIn]:
    with LoadBalancer() as balancer, AwsStandIn(balancer) as running:
        yield running


def test_hosts_are_found_by_their_tags(aws: AwsStandIn) -> None:
    ec2 = aws.client("ec2")

    def start(**tags: str) -> str:
        (instance,) = ec2.run_instances(
            ImageId="ami-12c6146b",
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[
                {
                    "ResourceType": "instance",
                    "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
                }
            ],
        )["Instances"]
        return str(instance["InstanceId"])

    first = start(Name="proxy-a", Fleet="redis-proxy", Canary="yes")
    start(Name="proxy-b", Fleet="redis-proxy")
    start(Name="another", Fleet="something-else")
    stopped = start(Name="proxy-c", Fleet="redis-proxy")
    ec2.stop_instances(InstanceIds=[stopped])
    environment = {**aws.environment, "AWS_REGION": aws.region}
    found = listed("inventory/aws_ec2.yml", environment)
    assert set(found["proxies"]["hosts"]) == {"proxy-a", "proxy-b"}
    assert found["canary"]["hosts"] == ["proxy-a"]
    variables = found["_meta"]["hostvars"]["proxy-a"]
    assert variables["instance_id"] == first
    assert variables["ansible_host"] == variables["private_ip_address"]
    assert variables["ansible_become"] is True
    assert variables["nlb_target_groups"] == [{"group": "redis-proxy"}]
