"""What is written to the log: its two formats, how repeats are left out, and how the file is rotated."""

import getpass
import grp
import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.processes import wait_until
from proxy import log, repeats
from proxy.config import ProxyConfig
from proxy.log import JsonFormatter, Logging, setup
from proxy.repeats import LIMIT, MOST_KINDS, PERIOD, Repeats, kind_of

ROOT = Path(__file__).parents[2]
LOGROTATE = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin")

logger = logging.getLogger("proxy.test")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "proxy.log"


@pytest.fixture
def running(file: Path) -> Iterator[Logging]:
    made = setup(ProxyConfig(log=str(file), log_format="json"))
    yield made
    made.stop()


def messages(file: Path) -> list[str]:
    return [json.loads(line)["msg"] for line in file.read_text().splitlines()]


# --- formats -------------------------------------------------------------------------------------


@given(st.text(), st.text(), st.text())
def test_a_record_is_one_line_of_json(name: str, thread: str, message: str) -> None:
    record = logging.LogRecord(name, logging.ERROR, __file__, 1, message, None, None)
    record.threadName = thread
    record.created, record.msecs = 1769903999.5, 500.0
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {
        "time": "2026-01-31T23:59:59.500Z",
        "level": "error",
        "logger": name,
        "thread": thread,
        "msg": message,
    }


def test_an_exception_and_odd_characters_are_in_the_json(running: Logging, file: Path) -> None:
    try:
        raise RuntimeError('two\nlines and a "quote"')
    except RuntimeError:
        logger.exception("\x00\x7f\ud800 é\u2028\U0001f600 %s", 'a"\\b')
    assert running.stop()
    (line,) = file.read_text().splitlines()
    found = json.loads(line)
    assert found["msg"] == '\x00\x7f\ud800 é\u2028\U0001f600 a"\\b'
    assert found["exception"].endswith('RuntimeError: two\nlines and a "quote"')


# --- repeats -------------------------------------------------------------------------------------


def record(
    message: str, *args: object, name: str = "proxy.a", level: int = logging.INFO
) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, message, args, None)


def take(found: Repeats, one: logging.LogRecord, now: float) -> list[str]:
    return [written.getMessage() for written in found.take(kind_of(one), one, now)]


def test_so_many_are_written_in_a_period_and_then_how_many_more() -> None:
    found = Repeats()
    for number in range(LIMIT):
        assert take(found, record("cluster=%s no %d", "a", number), 5.0) == [f"cluster=a no {number}"]
    assert found.remaining(5.0) is None
    for number in range(LIMIT, LIMIT + 1234):
        assert take(found, record("cluster=%s no %d", "a", number), 6.0) == []
    assert found.remaining(6.0) == pytest.approx(PERIOD - 1)
    assert take(found, record("another"), 5.0 + PERIOD) == [
        f"... 1234 more like this in the last {PERIOD:.0f} s; the last: cluster=a no {LIMIT + 1233}",
        "another",
    ]
    assert take(found, record("cluster=%s no %d", "a", 0), 5.0 + PERIOD) == ["cluster=a no 0"]


def test_what_is_told_of_them_is_from_the_same_logger_at_the_same_level() -> None:
    found = Repeats()
    for _ in range(LIMIT + 1):
        take(found, record("again", name="proxy.b", level=logging.WARNING), 0.0)
    (told,) = found.end(PERIOD)
    assert (told.name, told.levelno) == ("proxy.b", logging.WARNING)
    assert found.end(PERIOD) == []


@pytest.mark.parametrize(
    "other",
    [
        record("cluster=%s lost", "b"),
        record("cluster=%s found", "a"),
        record("cluster=%s lost", "a", name="proxy.b"),
        record("cluster=%s lost", "a", level=logging.ERROR),
    ],
)
def test_what_is_not_alike_is_written(other: logging.LogRecord) -> None:
    found = Repeats()
    for _ in range(LIMIT + 1):
        take(found, record("cluster=%s lost", "a"), 0.0)
    assert take(found, other, 0.0) == [other.getMessage()]


def test_messages_of_many_kinds_take_only_so_much_memory() -> None:
    found = Repeats()
    for number in range(10 * MOST_KINDS):
        assert take(found, record("%s", number), 0.0) == [str(number)]
        assert len(found._seen) <= MOST_KINDS


def test_repeats_are_told_of_though_nothing_more_is_logged(
    running: Logging, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "PERIOD", 0.2)
    for _ in range(LIMIT + 5):
        logger.info("again")
    wait_until("it is told", lambda: len(messages(file)) == LIMIT + 1)
    assert messages(file)[-1] == "... 5 more like this in the last 1 s; the last: again"


def test_repeats_are_told_of_at_the_end(running: Logging, file: Path) -> None:
    for number in range(1000):
        logger.info("cluster=%s no %d", "a", number)
    assert running.stop()
    assert messages(file)[:-1] == [f"cluster=a no {number}" for number in range(LIMIT)]
    assert re.fullmatch(r"\.\.\. 990 more like this in .*; the last: cluster=a no 999", messages(file)[-1])
    assert running.dropped == 0


# --- the file ------------------------------------------------------------------------------------


def test_a_file_is_opened_anew_at_once_when_that_is_asked_for(running: Logging, file: Path) -> None:
    wait_until("it is there", file.exists)
    for _ in range(LIMIT + 1):  # the last of which is not written
        file.unlink()
        log.reopen()
        wait_until("it is there again", file.exists, PERIOD / 2)


@pytest.mark.skipif(LOGROTATE is None, reason="needs logrotate")
def test_logrotate_rotates_it(running: Logging, file: Path, tmp_path: Path) -> None:
    assert LOGROTATE
    configuration = tmp_path / "redis-proxy"
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(ROOT / "templates/proxy"), autoescape=False)
    templates.filters["comment"] = "# {}".format
    configuration.write_text(
        templates.get_template("redis-proxy.logrotate.j2").render(
            ansible_managed="managed",
            proxy_all_settings={"log": str(file)},
            proxy_user=getpass.getuser(),
            proxy_group=grp.getgrgid(os.getgid()).gr_name,
        )
    )
    configuration.chmod(0o644)

    def rotate(*flags: str) -> str:
        done = subprocess.run(
            [LOGROTATE, *flags, "--state", str(tmp_path / "state"), str(configuration)],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stderr

    logger.info("first")
    wait_until("it is written", lambda: "first" in file.read_text())
    assert "error" not in rotate("--debug")
    assert rotate("--force") == ""
    logger.info("second")
    wait_until("it is in a new file", lambda: file.exists() and messages(file) == ["second"])
    assert messages(file.with_name("proxy.log.1")) == ["first"]
    rotate("--force")
    assert file.with_name("proxy.log.2.gz").exists()
