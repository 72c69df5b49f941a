"""One real host, and roles played on it as a control machine would: with ansible-playbook, over ssh."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import lab.requirements
from lab.host import Host
from lab.image import CACHE, base_image
from lab.network import Network

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Played:
    """How a play ended."""

    status: int
    output: str

    @property
    def changed(self) -> int:
        """How many tasks changed something."""
        (count,) = re.findall(r"^role-host .*changed=(\d+)", self.output, re.MULTILINE)
        return int(count)

    @property
    def said(self) -> str:
        """The output in one line, whatever its formatting."""
        return " ".join(self.output.split())


class RolesHost:
    """A host and what Ansible needs to reach it."""

    def __init__(self, host: Host, directory: Path) -> None:
        self._host = host
        self._directory = directory
        known = directory / "known_hosts"
        known.write_text(host.host_key + "\n")
        variables = {
            "ansible_host": host.address,
            "ansible_user": "ops",
            "ansible_ssh_private_key_file": str(directory / "key"),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={known}",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        inventory = {"all": {"hosts": {"role-host": variables}}}
        (directory / "inventory.json").write_text(json.dumps(inventory))

    def play(
        self, role: str, variables: Mapping[str, Any], *, entry: str = "main", check: bool = False
    ) -> Played:
        """Plays a role; ``variables`` are named without the role's name in front."""
        include = {"ansible.builtin.include_role": {"name": role, "tasks_from": entry}}
        named = {f"{role}_{name}": value for name, value in variables.items()}
        play = {"hosts": "all", "gather_facts": False, "become": True, "vars": named, "tasks": [include]}
        playbook = self._directory / "playbook.json"
        playbook.write_text(json.dumps([play]))
        settings = {
            "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._directory / "ssh"),
        }
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("ansible-playbook"), "--diff"),
                *("-i", self._directory / "inventory.json", playbook),
                *(["--check"] if check else []),
            ],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Played(done.returncode, done.stdout)

    def run(self, command: str, *, check: bool = True) -> str:
        """Runs a shell command on the host as root, without ssh; returns its output, stripped."""
        return self._host.run("sh", "-c", command, check=check).strip()

    def write(self, path: str, text: str) -> None:
        self.run(f"cat >{path} <<'EOF'\n{text}EOF")

    def exists(self, path: str) -> bool:
        return self.run(f"test -e {path} && echo yes", check=False) == "yes"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RolesHost]:
    """A clean host. Tests of a module share it, and each goes on where the one before it stopped."""
    if reason := lab.requirements.why_not():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("host")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "key"], check=True)
    public = (directory / "key.pub").read_text()
    with Network("rpcw", "10.96.0.0/24") as network:
        namespace = network.namespace("host", 11)
        with Host(
            "role-host", base_image(CACHE), namespace, directory / "disk", public_key=public, hosts={}
        ) as booted:
            yield RolesHost(booted, directory)
