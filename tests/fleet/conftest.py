"""A fleet for the tests, beside a lab that may be up: other addresses, another folder."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.fleet import INVENTORY, ROOT, Fleet
from lab.processes import free_ports
from lab.requirements import why_not


@dataclass
class Run:
    """What a playbook said and did."""

    status: int
    output: str

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        """Counts by host, as in ``recap["proxy1"]["changed"]``."""
        found = {}
        for host, counts in re.findall(r"^(\S+)\s+: (ok=.*)$", self.output.partition("PLAY RECAP")[2], re.M):
            found[host] = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", counts)}
        return found

    @property
    def changed(self) -> int:
        return sum(counts["changed"] for counts in self.recap.values())


class Operator:
    """Runs playbooks against the fleet as an operator does."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def plays(self, verb: str, *arguments: str, fails: bool = False, **variables: object) -> Run:
        """Runs a playbook; the test fails unless it ends as expected."""
        given = {**self.fleet.variables, **variables}
        run = self._run(
            "ansible-playbook",
            f"playbooks/{verb}.yml",
            *[word for name, value in given.items() for word in ("-e", f"{name}={value}")],
            *arguments,
        )
        assert (run.status != 0) is fails, run.output
        return run

    def says(self, *arguments: str) -> Run:
        """Runs an ad hoc command."""
        given = [word for name, value in self.fleet.variables.items() for word in ("-e", f"{name}={value}")]
        return self._run("ansible", *arguments, *given)

    def _run(self, program: str, *arguments: str) -> Run:
        result = subprocess.run(
            [str(Path(sys.executable).with_name(program)), "-i", str(INVENTORY), *arguments],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        return Run(result.returncode, result.stdout)

    @property
    def _environment(self) -> Mapping[str, str]:
        return {
            **os.environ,
            **self.fleet.aws.environment,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "ANSIBLE_NOCOLOR": "1",
            "PROXY_CFLAGS": "-O0",  # releases for tests need not be fast
        }


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three clean hosts, and all that is around them."""
    if reason := why_not():
        pytest.skip(reason)
    directory = ROOT / ".lab-tests"
    with Fleet(directory, network="rpfleet", subnet="10.99.0", aws_port=free_ports(1)[0]) as running:
        yield running
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def operator(fleet: Fleet) -> Operator:
    return Operator(fleet)
