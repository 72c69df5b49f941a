"""When files count as changed."""

import os
from pathlib import Path

import pytest

from proxy.watched_files import WatchedFiles


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "conf.toml"
    path.write_text("a = 1\n")
    return path


def test_a_change_is_told_once_and_not_before_it_has_settled(path: Path) -> None:
    watched = WatchedFiles([path])
    assert not watched.changed()
    path.write_text("a = 10\n")
    assert not watched.changed(), "it may be written still"
    path.write_text("a = 100\n")
    assert not watched.changed()
    assert watched.changed()
    assert not watched.changed()


def test_a_file_that_replaces_it(path: Path) -> None:
    watched = WatchedFiles([path])
    before = path.stat()
    new = path.with_name("new")
    new.write_text("a = 2\n")
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(path)
    assert [watched.changed() for _ in range(3)] == [False, True, False]


def test_a_file_that_is_gone_for_a_moment(path: Path) -> None:
    watched = WatchedFiles([path])
    kept = path.rename(path.with_name("kept"))
    assert not watched.changed()
    assert not watched.changed()
    kept.rename(path)
    assert [watched.changed() for _ in range(3)] == [False, False, False], "it is as it was"


def test_nothing_to_watch() -> None:
    watched = WatchedFiles([])
    assert [watched.changed() for _ in range(3)] == [False, False, False]
