"""The command line, and the logging it sets up."""

import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import __version__, log
from proxy.address import Address
from proxy.cli import ALL, UsageError, configure, main, parse
from proxy.config import Config, Options, ProxyConfig
from proxy.log import Console, KeyValueFormatter, Logging, level, setup

ROOT = Path(__file__).parents[2]
PATIENCE = 10.0

CLUSTER = """\
[[clusters]]
name = "a"
listen_addr = "127.0.0.1:6379"
slowlog_slower_than = 10
servers = ["127.0.0.1:1"]

[[clusters]]
name = "b"
listen_addr = "127.0.0.1:6380"
servers = ["127.0.0.1:1"]
"""

PROXY = """\
stat = "127.0.0.1:2110"
log = "/from/the/file"
log_lv = 1
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("conf_cluster.toml").write_text(CLUSTER)
    Path("conf_proxy.toml").write_text(PROXY)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def read(*flags: str) -> tuple[Config, Options]:
    return configure(parse(["-cluster", "conf_cluster.toml", "-conf", "conf_proxy.toml", *flags]))


def refused(capfd: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a command line is refused with."""
    assert main(argv) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("redis-proxy: ")
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    return err.removeprefix("redis-proxy: ")[:-1]


# --- flags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["-cluster", "c", "-slower-than", "5", "-std"],
        ["-cluster=c", "-slower-than=5", "-std=true"],
        ["--cluster", "c", "--slower-than", "5", "--std"],
        ["--cluster=c", "--slower-than=5", "--std=1"],
        [
            "-std=T",
            "-debug",
            "-debug=false",
            "-slower-than",
            "4",
            "-cluster",
            "x",
            "-cluster=c",
            "--slower-than=5",
        ],
    ],
)
def test_flags_as_go_takes_them(argv: list[str]) -> None:
    given_ = parse(argv)
    assert (given_.cluster, given_.slower_than, given_.std, given_.debug) == ("c", 5, True, False)


@pytest.mark.parametrize("value", ["-std", "---", "-x=y", "a b", "=", "a=b", "-1", "%s", "a\nb"])
def test_a_value_may_look_like_anything(value: str) -> None:
    for argv in (["-cluster", value, "-t"], ["-t", f"--cluster={value}"]):
        given_ = parse(argv)
        assert (given_.cluster, given_.check, given_.std) == (value, True, False)


def test_every_flag_of_overlord_is_there() -> None:
    names = {name.lstrip("-") for flag in ALL for name in flag.names}
    overlord = (
        "cluster conf t stat metrics reload slowlog slower-than slower-max-bytes slower-backup-count"
        " std debug log log-vl version"
    )
    assert names == {*overlord.split(), "check", "against", "probe", "h", "help"}


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        ([], "-cluster FILE is missing: it names the clusters to serve; --help tells more"),
        (["-conf", "conf_proxy.toml"], "-cluster FILE is missing"),
        (["-cluster="], "-cluster FILE is missing"),
        (["-cluster"], "-cluster: no FILE after it"),
        (["-cluster", "--", "-t"], "-cluster: no FILE after it"),
        (["-clustr", "x"], "-clustr: no such flag; did you mean -cluster?"),
        (["-c", "x"], "-c: no such flag"),
        (["-clus=x"], "-clus: no such flag"),
        (["-tstd"], "-tstd: no such flag"),
        (["---t"], "--t: no such flag"),
        (["-a\nb"], "-'a\\nb': no such flag"),
        (["conf_cluster.toml"], "conf_cluster.toml: not a flag; everything is given by flags"),
        (["-"], "-: not a flag"),
        (["--"], "--: not a flag"),
        ([""], "'': not a flag"),
        (["-std=maybe"], "-std: maybe is neither true nor false"),
        (["-slower-than", "1ms"], "-slower-than: 1ms: is not a whole number"),
        (["-slower-than", "9" * 5000], "-slower-than: 9999"),
        (["-slower-than", "-1"], "-slower-than: -1: is out of range; must be 0 to 2147483647 µs"),
        (["-log-vl", "-1"], "-log-vl: -1: is out of range"),
        (
            ["-slower-max-bytes", "-1"],
            "-slower-max-bytes: -1: is out of range; must be 0 to",
        ),
        (["-slower-backup-count", "x"], "-slower-backup-count: x: is not a whole number"),
        (["-stat", "localhost"], "-stat: localhost: port 'localhost' is not a number in 1..65535"),
        (["-stat", "h:0"], "-stat: h:0: port 0 is not in 1..65535"),
        (["-log", "a\nb"], "-log: 'a\\nb': holds a character that can't be printed"),
        (["-reload"], "-cluster FILE is missing"),
    ],
)
def test_flags_that_are_refused(capfd: pytest.CaptureFixture[str], argv: list[str], error: str) -> None:
    for more in ([], ["-t"]):
        assert refused(capfd, *more, *argv).startswith(error)


@given(st.lists(st.one_of(st.sampled_from([name for flag in ALL for name in flag.names]), st.text())))
def test_any_words_are_flags_or_refused(argv: list[str]) -> None:
    problem = ""
    try:
        parse(argv)
    except UsageError as error:
        problem = str(error)
    assert problem.isprintable()


# --- what flags override -------------------------------------------------------------------------


def test_no_flags_no_change() -> None:
    config, options = read()
    assert (config.proxy.stat, config.proxy.log, config.proxy.log_lv) == (
        Address("127.0.0.1", 2110),
        "/from/the/file",
        1,
    )
    assert (config.proxy.use_metrics, config.proxy.stdout, config.proxy.debug) == (False, False, False)
    assert [cluster.slowlog_slower_than for cluster in config.clusters] == [10, 0]
    assert options == Options(slowlog="", slower_max_bytes=500_000_000, slower_backup_count=7)


def test_flags_override_the_files() -> None:
    words = "-stat 9121 -metrics -log other -log-vl 5 -std -debug -slower-than 77"
    config, _ = read(*words.split())
    assert config.proxy == ProxyConfig(
        stat=Address("127.0.0.1", 9121), log="other", log_lv=5, use_metrics=True, stdout=True, debug=True
    )
    assert [cluster.slowlog_slower_than for cluster in config.clusters] == [77, 77]


def test_flags_that_say_nothing_override_nothing() -> None:
    assert (
        read("-stat=", "-log", "", "-log-vl", "0", "-slower-than=0", "-metrics=false", "-reload=f") == read()
    )


def test_flags_of_the_slow_log() -> None:
    _, options = read("-slowlog", "slow.log", "-slower-max-bytes=1000", "-slower-backup-count", "0")
    assert options == Options(slowlog="slow.log", slower_max_bytes=1000, slower_backup_count=0)


def test_without_conf() -> None:
    for conf in ([], ["-conf", ""]):
        config, _ = configure(parse(["-cluster", "conf_cluster.toml", *conf]))
        assert config.proxy == ProxyConfig(use_metrics=True)


def test_an_address_given_by_a_flag_may_clash_too(capfd: pytest.CaptureFixture[str]) -> None:
    error = refused(capfd, "-cluster", "conf_cluster.toml", "-stat", "6380", "--check")
    assert error.startswith(
        "conf_cluster.toml:9: [[clusters]] listen_addr = '127.0.0.1:6380': is taken by stat"
    )


# --- instead of serving --------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-t", "--check", "-check", "--t"])
def test_check(capfd: pytest.CaptureFixture[str], flag: str) -> None:
    assert main(["-cluster", "conf_cluster.toml", "-conf", "conf_proxy.toml", flag]) == 0
    assert capfd.readouterr() == (
        "conf_proxy.toml, conf_cluster.toml: 2 clusters (a on 127.0.0.1:6379, b on 127.0.0.1:6380): ok\n",
        "",
    )
    Path("conf_cluster.toml").write_text(CLUSTER.partition("\n\n")[0])
    assert main([flag, "-cluster", "conf_cluster.toml"]) == 0
    assert capfd.readouterr() == ("conf_cluster.toml: 1 cluster (a on 127.0.0.1:6379): ok\n", "")


def test_check_fails(capfd: pytest.CaptureFixture[str]) -> None:
    assert refused(capfd, "-t", "-cluster", "nowhere.toml") == (
        "nowhere.toml: can't be read: No such file or directory"
    )
    Path("conf_proxy.toml").write_text("[proxy]\nread_timeout = true\n")
    assert refused(capfd, "-t", "-cluster", "conf_cluster.toml", "-conf", "conf_proxy.toml") == (
        "conf_proxy.toml:2: [proxy] read_timeout = true: is a boolean; must be an integer (ms)"
    )


def test_check_does_not_listen_nor_need_the_data_plane() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        Path("conf_cluster.toml").write_text(CLUSTER.replace("6379", str(taken.getsockname()[1])))
        code = (
            "import sys; from proxy.cli import main; status = main(['-cluster', 'conf_cluster.toml', '-t']);"
            "sys.exit(status or any(name in sys.modules for name in ('proxy.server', 'proxy.dataplane')))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment(), capture_output=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["-version"]) == 0
    assert main(["-cluster", "nowhere.toml", "--version"]) == 0
    assert capfd.readouterr() == (f"{__version__}\n" * 2, "")


@pytest.mark.parametrize("flag", ["-h", "--help", "-help"])
def test_help(capfd: pytest.CaptureFixture[str], flag: str) -> None:
    assert main([flag, "-cluster", "nowhere.toml"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert out.isascii()
    assert all(len(line) <= 105 for line in out.splitlines())
    for option in (name for declared in ALL for name in declared.names):
        assert re.search(rf"^  (-\w+, )?{option}\b", out, re.MULTILINE), option
    assert "MICROSECONDS" in out
    assert "(default 500000000)" in out
    assert "(default 7)" in out


# --- the process ---------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run(*argv: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "proxy", *argv]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_module_runs() -> None:
    assert run("-version") == (0, f"{__version__}\n", "")
    assert run("-cluster", "conf_cluster.toml", "--check")[0] == 0
    status, out, err = run("-cluster", "nowhere.toml")
    assert (status, out, err.count("\n")) == (2, "", 1)


def test_serving_where_another_listens_ends_with_the_servers_status() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        Path("conf_cluster.toml").write_text(CLUSTER.replace("6379", str(taken.getsockname()[1])))
        status, out, err = run("-cluster", "conf_cluster.toml")
    assert (status, out) == (1, "")
    assert "Address already in use" in err


def test_a_log_that_can_not_be_opened(capfd: pytest.CaptureFixture[str]) -> None:
    for file, reason in (("conf_proxy.toml/x", "Not a directory|File exists"), (".", "Is a directory")):
        error = refused(capfd, "-cluster", "conf_cluster.toml", "-log", file)
        assert re.fullmatch(rf"log = {re.escape(file)}: can't be opened: ({reason})", error)


# --- logging -------------------------------------------------------------------------------------

logger = logging.getLogger("proxy.test")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe, its reading end first."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def pairs(line: str) -> dict[str, str]:
    """One line as ``key=value`` pairs, read independently of what wrote it."""
    found = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^ "=]+)(?: |$)', line)
    assert " ".join(f"{key}={value}" for key, value in found) == line
    return {key: json.loads(value) if value.startswith('"') else value for key, value in found}


@given(st.text(), st.text(), st.text(), st.floats(0, 4e9))
def test_a_record_is_one_line(name: str, thread: str, message: str, created: float) -> None:
    record = logging.LogRecord(name, logging.WARNING, __file__, 1, message, None, None)
    record.threadName = thread
    record.created = created
    line = KeyValueFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    found = pairs(line)
    assert list(found) == ["time", "level", "logger", "thread", "msg"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["time"])
    assert (found["level"], found["logger"], found["thread"], found["msg"]) == (
        "warning",
        name,
        thread,
        message,
    )


def test_an_exception_is_in_the_line(capfd: pytest.CaptureFixture[str]) -> None:
    running = setup(ProxyConfig())
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        logger.exception("it %s", "failed")
    assert running.stop()
    (line,) = capfd.readouterr().err.splitlines()
    found = pairs(line)
    assert found["msg"] == "it failed"
    assert found["exception"].endswith("RuntimeError: two\nlines")


@pytest.mark.parametrize(
    ("config", "places"),
    [
        (ProxyConfig(), "err"),
        (ProxyConfig(stdout=True), "out"),
        (ProxyConfig(debug=True), "out"),
        (ProxyConfig(log="logs/new/proxy.log"), "file"),
        (ProxyConfig(log="logs/new/proxy.log", stdout=True), "out file"),
    ],
)
def test_where_it_is_logged(capfd: pytest.CaptureFixture[str], config: ProxyConfig, places: str) -> None:
    running = setup(config)
    logger.info("hello %s", "there")
    assert running.stop()
    logger.warning("too late")
    out, err = capfd.readouterr()
    file = Path("logs/new/proxy.log")
    texts = {"out": out, "err": err, "file": file.read_text() if file.exists() else ""}
    assert {place for place, text in texts.items() if text} == set(places.split())
    for place in places.split():
        assert pairs(texts[place].strip())["msg"] == "hello there"


def test_levels(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    for log_lv in range(7):
        running = setup(ProxyConfig(stdout=True, log_lv=log_lv))
        logger.info("what happens")
        logger.debug("detail")
        assert running.stop()
        assert level(log_lv) == (logging.DEBUG if log_lv >= 3 else logging.INFO)
        assert [pairs(line)["level"] for line in capfd.readouterr().out.splitlines()] == (
            ["info", "debug"] if log_lv >= 3 else ["info"]
        )
    assert (root.level, root.handlers) == before


def test_a_file_that_is_moved_or_removed_is_opened_anew() -> None:
    running = setup(ProxyConfig(log="logs/proxy.log"))
    file = Path("logs/proxy.log")
    logger.info("first")
    wait_for(lambda: "first" in file.read_text())
    file.rename("logs/proxy.log.1")
    logger.info("second")
    wait_for(lambda: file.exists() and "second" in file.read_text())
    assert "second" not in Path("logs/proxy.log.1").read_text()
    file.unlink()
    Path("logs/proxy.log.1").unlink()
    file.parent.rmdir()
    logger.info("lost")
    wait_for(lambda: running.dropped == 1)
    assert log.dropped() == 1
    file.parent.mkdir()
    logger.info("third")
    assert running.stop()
    assert [pairs(line)["msg"] for line in file.read_text().splitlines()] == ["third"]


def test_a_full_disk_is_counted() -> None:
    running = setup(ProxyConfig(log="/dev/full"))
    logger.info("first")
    logger.info("second")
    assert running.stop()
    assert running.dropped == 2


def test_a_full_queue_drops_and_counts(pipe: tuple[int, int]) -> None:
    """The reader of the log stands still: whoever logs goes on, and the end waits only so long."""
    reading, writing = pipe
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while os.write(writing, b"x" * 65536):
            pass
    os.set_blocking(writing, True)
    running = Logging([Console(writing)], logging.INFO, capacity=5)
    logger.info("record 0")
    wait_for(lambda: running.waiting == 0)
    started = time.monotonic()
    for number in range(1, 100):
        logger.info("record %d", number)
    assert (running.waiting, running.dropped) == (5, 94)
    assert not running.stop(0.05)
    assert time.monotonic() - started < PATIENCE / 2

    read = b""
    while b" log records dropped" not in read:
        read += os.read(reading, 65536)
    messages = [pairs(line)["msg"] for line in read.decode().lstrip("x").splitlines()]
    assert messages[:-1] == [f"record {number}" for number in range(6)]
    assert messages[-1].startswith("94 log records dropped")
    assert running.stop()


def test_a_log_nobody_reads_any_more(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    running = Logging([Console(writing)], logging.INFO)
    os.close(reading)
    logger.info("first")
    logger.info("second")
    wait_for(lambda: running.dropped == 2)
    assert running.stop()


def test_arguments_are_read_when_logged(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    running = Logging([Console(writing)], logging.INFO)
    names = ["a"]
    for number in range(50):
        logger.info("%s", names)
        names[0] = str(number)
    assert running.stop()
    messages = [pairs(line)["msg"] for line in os.read(reading, 65536).decode().splitlines()]
    assert messages == ["['a']"] + [f"['{number}']" for number in range(49)]
