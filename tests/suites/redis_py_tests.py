"""redis-py's tests of a plain server, against the proxy or any other.

Usage: python -m tests.suites.redis_py_tests [--masters N | --direct | --address HOST:PORT] [TEST...]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from proxy.address import Address
from tests.suites import fetch
from tests.suites.denied import denied
from tests.suites.target import Outcome, add_arguments, target

DENIED = Path(__file__).parent / "redis_py_tests.denied"
"""An entry is a file, as a glob pattern, or a test, as the beginning of pytest's name for it."""
SELECTION = "not onlycluster and not redismod and not ssl and not multidb_integration and not cp_integration"
"""Tests that need no cluster, module, certificate or second server, by the suite's own markers."""


def run(address: Address, only: Sequence[str] = ()) -> Outcome:
    """Runs the tests, or ``only`` these; what pytest prints is passed on. Raises fetch.UnavailableError."""
    tree = fetch.redis_py()
    entries = [entry.what for entry in denied(DENIED)]
    files = sorted({*tree.glob("tests/test_*.py"), *tree.glob("tests/test_asyncio/test_*.py")})
    globs = {entry: set(tree.glob(entry)) for entry in entries if "::" not in entry}
    tests = [entry for entry in entries if "::" in entry]
    wanted = [str(file.relative_to(tree)) for file in files if not any(file in one for one in globs.values())]
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        pytest = [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "-W",
                "ignore",
                "-m",
                SELECTION,
            ),
            *("--redis-url", f"redis://{address}/0", f"--junitxml={report}", "-o", "junit_family=xunit1"),
        ]
        if only:
            pytest += only
        else:
            pytest += [*(f"--deselect={test}" for test in tests), *wanted]
        environment = {**os.environ, "PYTHONPATH": str(tree / "packages")}
        done = subprocess.run(pytest, cwd=tree, env=environment, check=False)
        outcome = Outcome(ended=done.returncode in (0, 1))
        for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
            name = f"{case.get('file')}::{case.get('classname')}::{case.get('name')}"
            kinds = {child.tag for child in case}
            if kinds & {"failure", "error"}:
                outcome.failed.append(name)
            elif "skipped" in kinds:
                outcome.ignored.append(name)
            else:
                outcome.ok.append(name)
    if not only:
        outcome.unused += [entry for entry, found in globs.items() if not found]
        outcome.unused += [test for test in tests if not _exists(tree, test)]
    return outcome


def _exists(tree: Path, test: str) -> bool:
    """Whether the file of an entry names the entry's last part."""
    file, *parts = test.partition("[")[0].split("::")
    return (tree / file).exists() and all(f" {part}" in (tree / file).read_text() for part in parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("tests", nargs="*", help="as pytest names them")
    asked = parser.parse_args()
    with target(asked, plain=True) as (address, _servers):
        return run(address, asked.tests).told()


if __name__ == "__main__":
    sys.exit(main())
