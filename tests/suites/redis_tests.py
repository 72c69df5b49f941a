"""Redis's own test suite against a server that is there: the proxy, or any other.

Usage: python -m tests.suites.redis_tests [--masters N | --direct | --address ... --servers ...] [UNIT...]

Units whose scripts use keys that they do not name run before a cluster of one master, whatever N is.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab.processes import free_ports
from proxy.address import Address
from tests.suites import fetch
from tests.suites.denied import denied
from tests.suites.target import Outcome, add_arguments, target

HERE = Path(__file__).parent
DENIED = HERE / "redis_tests.denied"
"""Entries are ``unit NAME``, ``tag NAME`` and ``test NAME``, or ``test /REGEXP``."""
ONE_MASTER = {"unit/scripting", "unit/functions"}
"""Units with scripts that use keys they do not name, wherever those are."""
BELOW_BASE = 32
"""How far below its base port the suite begins to look for one to talk with its own processes."""
SILENCE = 60
"""Seconds without a finished test after which the suite gives up."""


def run(address: Address, servers: Sequence[Address], units: Sequence[str]) -> Outcome:
    """Runs these units against an address behind which there are ``servers``.

    What the suite prints is passed on.
    """
    of = _by_kind()
    with tempfile.NamedTemporaryFile("w", suffix=".denied") as skip:
        skip.write("\n".join(of["test"]))
        skip.flush()
        command = [
            *("tclsh", "tests/test_helper.tcl", "--host", address.host, "--port", str(address.port)),
            *("--baseport", str(free_ports(1, bus=True)[0] + BELOW_BASE)),
            *("--cluster-mode", "--durable", "--timeout", str(SILENCE), "--skipfile", skip.name),
            *("--tags", " ".join(f"-{tag}" for tag in of["tag"])),
            *(word for unit in units for word in ("--single", unit)),
        ]
        return _watch(command, fetch.redis(), servers)


def _by_kind() -> dict[str, list[str]]:
    """The names in the list of what is denied, of each kind."""
    entries = [entry.what.split(" ", 1) for entry in denied(DENIED)]
    return {kind: [name for other, name in entries if other == kind] for kind in ("unit", "tag", "test")}


def _watch(command: list[str], tree: Path, servers: Sequence[Address]) -> Outcome:
    outcome = Outcome()
    lists = {"ok": outcome.ok, "err": outcome.failed, "skip": outcome.skipped, "ignore": outcome.ignored}
    environment = {**os.environ, "SERVERS": " ".join(map(str, servers))}
    failed = False  # whether what follows belongs to a failed test
    with subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        for coloured in process.stdout:
            line = re.sub(r"\x1b\[[0-9;]*m", "", coloured.rstrip("\n"))
            print(line, flush=True)
            if said := re.match(r"\[(ok|err|skip|ignore|exception|TIMEOUT)\]: (.*)", line):
                kind, name = said.groups()
                failed = kind not in ("ok", "skip", "ignore")
                lists.get(kind, outcome.failed).append(re.sub(r" \(\d+ ms\)$", "", name))
            elif re.match(r"\[|Testing |\s*The End", line):
                failed = False
                outcome.ended |= line.strip() == "The End"
            elif failed:
                outcome.failed[-1] += f"\n{line}"
    return outcome


def unused(outcome: Outcome, units: Sequence[str]) -> list[str]:
    """The entries without effect on a run of all ``units``."""
    of = _by_kind()
    return [
        *(f"unit {name}" for name in of["unit"] if name not in units),
        *(f"tag {name}" for name in of["tag"] if not any(f"Tag: {name} " in one for one in outcome.ignored)),
        *(
            f"test {name}"
            for name in of["test"]
            if not any(
                re.search(name[1:], one) if name.startswith("/") else name == one for one in outcome.skipped
            )
        ),
    ]


def prepare(tree: Path) -> None:
    """Has the unpacked suite read our prelude, and find programs where they are installed."""
    helper = tree / "tests/test_helper.tcl"
    text, start = helper.read_text(), "\nif {$::client} {\n"
    if "prelude.tcl" not in text:
        assert text.count(start) == 1
        helper.write_text(text.replace(start, f"\nsource {HERE / 'prelude.tcl'}{start}"))


def all_units(tree: Path) -> list[str]:
    """The names that the suite gives its files, in its order."""
    text = (tree / "tests/test_helper.tcl").read_text()
    listed = re.search(r"set ::all_tests \{(.*?)\}", text, re.DOTALL)
    assert listed
    return listed[1].split()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("units", nargs="*", help="such as unit/scan; all that are not denied")
    asked = parser.parse_args()
    tree = fetch.redis()
    prepare(tree)
    there = all_units(tree)
    left_out = _by_kind()["unit"]
    units = asked.units or [unit for unit in there if unit not in left_out]
    outcome = Outcome(ended=True)
    if asked.direct or asked.address is not None:
        parts = {asked.masters: units}
    else:
        parts = {
            1: [unit for unit in units if unit in ONE_MASTER],
            asked.masters: [unit for unit in units if asked.masters == 1 or unit not in ONE_MASTER],
        }
    for asked.masters, part in parts.items():
        if part:
            with target(asked) as (address, servers):
                outcome += run(address, servers, part)
    if outcome.ended and not asked.units:
        outcome.unused += unused(outcome, there)
    return outcome.told()


if __name__ == "__main__":
    sys.exit(main())
