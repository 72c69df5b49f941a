"""``docs/commands.md``: it follows from the command table, and says something of every command."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.commands import TABLE, Plan
from scripts.generate_command_docs import FATES, NOTES, ONE_SLOT, OUTPUT, generate, is_documented, usage

COMMANDS = [command for command in TABLE.commands if is_documented(command)]
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \| (.*)\|$", re.MULTILINE)
ROWS = {name: (since, fate, notes.strip()) for name, since, fate, notes in ROW.findall(generate())}
"""What the documentation says: since, fate and notes by the command's name."""


def row(name: str) -> tuple[str, str, str]:
    return ROWS[usage(name)]


def check(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.generate_command_docs", *options],
        check=False,
        capture_output=True,
        text=True,
        cwd=OUTPUT.parents[1],
    )


def test_the_file_is_up_to_date() -> None:
    done = check("--check")
    assert done.returncode == 0, done.stderr


def test_a_stale_or_missing_file_is_told(tmp_path: Path) -> None:
    output = tmp_path / "commands.md"
    assert check("--check", "--output", output).returncode == 1
    assert check("--output", output).returncode == 0
    assert check("--check", "--output", output).returncode == 0
    output.write_text(output.read_text().replace("refused", "granted", 1))
    done = check("--check", "--output", output)
    assert done.returncode == 1
    assert done.stderr == f"{output} is not up to date: run python -m scripts.generate_command_docs\n"


def test_every_command_has_its_fate_and_every_refused_one_its_reason() -> None:
    assert set(ROWS) == {usage(command.name) for command in COMMANDS}
    for command in COMMANDS:
        since, fate, notes = row(command.name)
        assert re.fullmatch(r"((Redis|Valkey) )?\d+\.\d+\.\d+", since), command
        assert fate == FATES[command.plan][0]
        if command.plan is Plan.REFUSE:
            assert notes.casefold().startswith(f"{command.reason}.".casefold())


def test_every_plan_has_a_fate() -> None:
    assert set(FATES) == set(Plan)


def test_notes_are_for_commands_that_there_are_and_are_not_refused() -> None:
    documented = {command.name: command for command in COMMANDS}
    assert set(NOTES) <= set(documented)
    assert not [name for name in NOTES if documented[name].plan is Plan.REFUSE]
    assert not [name for name, note in NOTES.items() if "|" in note or "\n" in note or not note.endswith(".")]


@pytest.mark.parametrize(
    ("name", "several"),
    [
        *((name, True) for name in ("msetnx", "rename", "sinter", "zunionstore", "lmpop", "blpop", "xread")),
        *((name, True) for name in ("georadius", "sort", "eval", "pfcount", "lcs", "bitop")),
        *((name, False) for name in ("get", "mget", "georadius_ro", "spublish", "object|encoding", "del")),
    ],
)
def test_commands_whose_keys_must_share_a_slot(name: str, several: bool) -> None:
    assert row(name)[2].startswith(ONE_SLOT) is several


@pytest.mark.parametrize(
    ("name", "since"),
    [
        ("get", "1.0.0"),
        ("waitaof", "7.2.0"),
        ("hexpire", "Redis 7.4.0"),
        ("client|capa", "Valkey 8.0.0"),
        ("commandlog|get", "Valkey 8.1.0"),
    ],
)
def test_since_when_and_where(name: str, since: str) -> None:
    assert row(name)[0] == since


def test_containers_are_no_commands_but_command_is() -> None:
    assert not {"CLIENT", "OBJECT", "CLUSTER"} & set(ROWS)
    assert {"COMMAND", "COMMAND DOCS", "CLIENT NO-EVICT"} <= set(ROWS)
