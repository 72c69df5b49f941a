"""The CloudWatch agent's configuration, as Ansible renders it, and what the role says of wrong variables."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles/cloudwatch_agent"
SCHEMA = json.loads((ROOT / "tests/data/amazon-cloudwatch-agent-schema.json").read_text())

CHANGED = {
    "cloudwatch_agent_interval": 10,
    "cloudwatch_agent_namespace": "Redis/Proxy",
    "cloudwatch_agent_run_as_user": "watcher",
    "cloudwatch_agent_log_file": "/var/log/agent.log",
    "cloudwatch_agent_append_dimensions": [],
    "cloudwatch_agent_aggregation_dimensions": [],
    "cloudwatch_agent_metrics_collected": {
        "net": {"measurement": [{"name": "bytes_sent", "rename": "Sent", "unit": "Bytes"}, "net_err_in"]}
    },
}

WRONG: dict[str, tuple[Mapping[str, Any], str]] = {
    "measurement": (
        {"metrics_collected": {"cpu": {"measurement": ["usage_idel", "cpu_usage_user"]}}},
        "cloudwatch_agent_metrics_collected.cpu.measurement has usage_idel; it must be of time_active,",
    ),
    "measurement_with_options": (
        {"metrics_collected": {"mem": {"measurement": [{"name": "mem_usde"}]}}},
        "cloudwatch_agent_metrics_collected.mem.measurement has mem_usde;",
    ),
    "no_measurement": (
        {"metrics_collected": {"mem": {"measurements": ["used"]}}},
        'cloudwatch_agent_metrics_collected.mem is {"measurements": ["used"]};',
    ),
    "plugin": (
        {"metrics_collected": {"netsat": {"measurement": ["tcp_established"]}}},
        "cloudwatch_agent_metrics_collected.netsat is no plugin",
    ),
    "dimension": ({"append_dimensions": ["InstanceName"]}, "cloudwatch_agent_append_dimensions"),
    "aggregation": (
        {"aggregation_dimensions": [["InstanceId", "Instance"]]},
        "cloudwatch_agent_aggregation_dimensions has Instance; it must be of",
    ),
    "aggregation_by_what_is_not_appended": (
        {"append_dimensions": ["ImageId"], "aggregation_dimensions": [["InstanceId"]]},
        "cloudwatch_agent_aggregation_dimensions has InstanceId;",
    ),
    "type": ({"interval": "often"}, "'cloudwatch_agent_interval' is of type"),
    "interval": ({"interval": 0}, "cloudwatch_agent_interval is 0; it must be 1 to 172800"),
    "namespace": ({"namespace": "AWS/EC2"}, 'cloudwatch_agent_namespace is "AWS/EC2";'),
    "mode": ({"mode": "onpremise"}, "cloudwatch_agent_mode must be one of: ec2, onPremise"),
    "checksum": ({"package_checksum": "sha256:1"}, 'cloudwatch_agent_package_checksum is "sha256:1";'),
    "no_check": ({"signature_url": ""}, "cloudwatch_agent_signature_url and"),
}


def _playbook(results: Path) -> list[dict[str, Any]]:
    """Writes the configuration for two hosts, and what the role says of the variables of the rest."""
    files = [str(ROLE / f"{name}/main.yml") for name in ("defaults", "vars")]
    render = {"gather_facts": False, "vars_files": files}
    template = {
        "ansible.builtin.template": {
            "src": str(ROOT / "templates/cloudwatch_agent/amazon-cloudwatch-agent.json.j2"),
            "dest": str(results / "{{ inventory_hostname }}.json"),
        },
    }
    check = {"ansible.builtin.include_role": {"name": "cloudwatch_agent", "tasks_from": "assert"}}
    said = "{{ ansible_failed_result.msg | default(ansible_failed_result | to_json) }}"
    all_said = "{{ dict(ansible_play_hosts | zip(ansible_play_hosts | map('extract', hostvars, 'said'))) }}"
    rescue = {"ansible.builtin.set_fact": {"said": said}}
    collect = {
        "ansible.builtin.copy": {"content": all_said, "dest": str(results / "said.json")},
        "run_once": True,
    }
    return [
        {"hosts": "defaults", "tasks": [template], **render},
        {"hosts": "changed", "tasks": [template | {"vars": CHANGED}], **render},
        {"hosts": "check", "gather_facts": False, "tasks": [{"block": [check], "rescue": [rescue]}, collect]},
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of Ansible for everything, a case a host, as that is quick; returns the results' folder."""
    results = tmp_path_factory.mktemp("cloudwatch_agent")
    cases = {
        name: {f"cloudwatch_agent_{key}": value for key, value in variables.items()}
        for name, (variables, _) in WRONG.items()
    }
    inventory = results / "inventory.json"
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    groups: dict[str, Any] = {"check": {"hosts": {"nothing": {}} | cases, "vars": {"said": "takes them"}}}
    hosts: dict[str, Any] = {"defaults": {}, "changed": {}}
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": local, "children": groups}}))
    playbook = results / "playbook.json"
    playbook.write_text(json.dumps(_playbook(results)))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "--forks", "20", "-i", inventory, playbook],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return results


def test_defaults_are_what_the_agent_takes(run: Path) -> None:
    config = json.loads((run / "defaults.json").read_text())
    jsonschema.validate(config, SCHEMA)
    assert config["agent"] == {
        "metrics_collection_interval": 60,
        "run_as_user": "cwagent",
        "logfile": "/opt/aws/amazon-cloudwatch-agent/logs/amazon-cloudwatch-agent.log",
    }
    metrics = config["metrics"]
    assert metrics["namespace"] == "CWAgent"
    assert metrics["append_dimensions"] == {
        name: f"${{aws:{name}}}" for name in ("AutoScalingGroupName", "ImageId", "InstanceId", "InstanceType")
    }
    assert metrics["aggregation_dimensions"] == [["AutoScalingGroupName"], ["InstanceId", "InstanceType"], []]
    assert metrics["metrics_collected"]["cpu"]["totalcpu"] is True
    assert {"cpu", "mem", "netstat"} == set(metrics["metrics_collected"])


def test_variables_reach_the_file(run: Path) -> None:
    config = json.loads((run / "changed.json").read_text())
    jsonschema.validate(config, SCHEMA)
    assert config == {
        "agent": {
            "metrics_collection_interval": 10,
            "run_as_user": "watcher",
            "logfile": "/var/log/agent.log",
        },
        "metrics": {
            "namespace": "Redis/Proxy",
            "metrics_collected": CHANGED["cloudwatch_agent_metrics_collected"],
        },
    }


def test_the_role_takes_its_defaults(run: Path) -> None:
    assert json.loads((run / "said.json").read_text())["nothing"] == "takes them"


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_variable_is_named(run: Path, name: str) -> None:
    assert WRONG[name][1] in json.loads((run / "said.json").read_text())[name]
