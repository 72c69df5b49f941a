"""Lists of what is left out of other people's suites."""

from pathlib import Path

import pytest

from tests.suites import redis_py_tests, redis_tests
from tests.suites.denied import Denied, denied


def _listed(directory: Path, text: str) -> list[Denied]:
    path = directory / "list"
    path.write_text(text)
    return denied(path)


def test_an_entry_is_what_stands_before_the_first_tab(tmp_path: Path) -> None:
    text = "# a heading\twith a tab\n\ntest /^a b #1\twhy it is\ttold\nunit x\tso\n"
    assert _listed(tmp_path, text) == [("test /^a b #1", "why it is\ttold"), ("unit x", "so")]


@pytest.mark.parametrize("line", ["unit x", "unit x\t", "unit x\t  ", "\ta reason of nothing"])
def test_an_entry_without_its_reason_is_told_with_its_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=r"list:2: no reason"):
        _listed(tmp_path, f"# a heading\n{line}\n")


def test_an_entry_that_is_there_twice_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"twice: a, c$"):
        _listed(tmp_path, "c\tone\nb\ttwo\na\tthree\na\tfour\nc\tfive\n")


@pytest.mark.parametrize("path", [redis_tests.DENIED, redis_py_tests.DENIED], ids=lambda path: path.stem)
def test_our_lists_can_be_read(path: Path) -> None:
    assert denied(path)


def test_entries_for_redis_are_units_tags_and_tests() -> None:
    assert {entry.what.partition(" ")[0] for entry in denied(redis_tests.DENIED)} == {"unit", "tag", "test"}
