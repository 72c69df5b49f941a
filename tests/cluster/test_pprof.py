"""The pages under /debug/pprof of a real process."""

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lab.load import load
from lab.processes import free_ports, wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from proxy.address import Address
from proxy.control import pack
from tests.cluster.wire import Wire

Proxies = Callable[..., ProxyProcess]
PATIENCE = 60
"""Seconds for a page that takes its time."""


def options() -> dict[str, object]:
    """The pages of ``pprof`` where those of ``stat`` are."""
    port = free_ports(1)[0]
    return {"stat_port": port, "top": {"pprof": str(port)}, "proxy": {"threads": 2, "shutdown_timeout": 300}}


@pytest.fixture(scope="module")
def proxy(cluster: RedisCluster) -> Iterator[ProxyProcess]:
    made = ProxyProcess(cluster.addresses, **options())  # type: ignore[arg-type]
    made.start()
    yield made
    log = made.log()
    assert made.stop() == 0, log
    assert "Traceback" not in log, log


def ok(proxy: ProxyProcess, page: str) -> str:
    status, text = proxy.get(f"/debug/pprof/{page}", PATIENCE)
    assert status == 200, text
    return text


def words(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split())


def test_the_index_names_every_page(proxy: ProxyProcess) -> None:
    paths = [line.split()[0] for line in ok(proxy, "").splitlines()]
    known = [path for path in proxy.page("/nowhere").splitlines() if path.startswith("/debug/pprof/")]
    assert ["/debug/pprof/", *paths] == known
    assert len(paths) == 6


def test_stacks_and_objects(proxy: ProxyProcess) -> None:
    stacks = ok(proxy, "threads")
    assert "thread MainThread" in stacks
    assert "thread worker-0" in stacks
    objects = ok(proxy, "objects")
    count, _, what = objects.splitlines()[0].partition(" ")
    uncounted = sys.getallocatedblocks() == 0  # as with PYTHONMALLOC=malloc
    assert int(count) > 10_000 or uncounted
    assert what == "blocks of memory"
    assert " proxy.worker.Worker\n" in objects


# --- the profile ---------------------------------------------------------------------------------


@pytest.fixture
def busy(proxy: ProxyProcess) -> Iterator[ProxyProcess]:
    with load(Address("127.0.0.1", proxy.port)) as running:
        running.wait_for(100)
        yield proxy
    assert running.count.failures == []


def test_a_profile_names_functions_of_the_data_plane(busy: ProxyProcess) -> None:
    stacks = ok(busy, "profile?seconds=2").splitlines()
    assert all(re.fullmatch(r".+ \d+", line) for line in stacks)
    assert any("worker-0;" in line and "(proxy/reactor.pyx:" in line for line in stacks)


def test_a_profile_for_speedscope(busy: ProxyProcess) -> None:
    found = json.loads(ok(busy, "profile?seconds=1&format=speedscope"))
    assert found["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert any("worker-" in profile["name"] for profile in found["profiles"])


def test_a_profile_as_a_flame_graph(busy: ProxyProcess) -> None:
    root = ElementTree.fromstring(ok(busy, "profile?seconds=1&format=flamegraph"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("page", ["profile", "heap"])
def test_one_at_a_time(proxy: ProxyProcess, page: str) -> None:
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda _: proxy.get(f"/debug/pprof/{page}?seconds=2", PATIENCE), range(2)))
    (_, (status, text)) = sorted(found)
    assert [status for status, _ in sorted(found)] == [200, 409]
    assert (status, text) == (409, "one is being taken already: ask again when it is over\n")


def test_a_proxy_that_ends_does_not_wait_for_a_profile(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, **options())
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(proxy.get, "/debug/pprof/profile?seconds=60", PATIENCE)
        threads = Path(f"/proc/{proxy.pid}/task")
        wait_until("it is being taken", lambda: any(file.read_text() for file in threads.glob("*/children")))
        proxy.process.send_signal(signal.SIGTERM)
        wait_until("it ends", lambda: proxy.returncode == 0, 10)
        with pytest.raises(ConnectionError):
            asked.result(10)


# Arguments: the command to run. Then ptrace(2) answers EPERM, as where a filter of system calls has it do so:
# load the call's number; is it ptrace's? EPERM; anything else is allowed.
FORBID = """
import ctypes, os, platform, struct, sys
number = {"x86_64": 101, "aarch64": 117}[platform.machine()]
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_where_a_profile_is_not_permitted_it_is_said_what_to_do(
    cluster: RedisCluster, new_proxy: Proxies
) -> None:
    proxy = new_proxy(cluster, prefix=[sys.executable, "-c", FORBID], **options())
    status, text = proxy.get("/debug/pprof/profile?seconds=1", PATIENCE)
    assert status == 503
    assert text.startswith("py-spy failed:\n\nError: ")
    assert "SystemCallFilter=ptrace" in text


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ("profile?seconds=0", "seconds='0': must be a whole number from 1 to 300"),
        ("profile?seconds=301", "seconds='301': must be a whole number from 1 to 300"),
        ("profile?seconds=1.5", "seconds='1.5': must be a whole number from 1 to 300"),
        ("profile?seconds=", "seconds='': must be a whole number from 1 to 300"),
        ("heap?seconds=%C3%A9%00", "seconds='\\xe9\\x00': must be a whole number from 1 to 300"),
        ("profile?format=pprof", "format='pprof': must be collapsed or speedscope or flamegraph"),
        ("profile?second=1", "'second': no such parameter; there are: seconds, format"),
        ("heap?format=raw", "'format': no such parameter; there are: seconds"),
    ],
)
def test_a_query_that_makes_no_sense(proxy: ProxyProcess, page: str, why: str) -> None:
    assert proxy.get(f"/debug/pprof/{page}") == (400, f"{why}\n")


# --- the heap ------------------------------------------------------------------------------------


def test_the_heap_names_lines_that_have_allocated(proxy: ProxyProcess) -> None:
    with ThreadPoolExecutor() as pool, ExitStack() as stack:
        asked = pool.submit(ok, proxy, "heap?seconds=1")

        def over() -> bool:
            wire = stack.enter_context(Wire(proxy.port))
            assert wire.ask("CLIENT", "SETNAME", "watched") == b"+OK\r\n"
            return asked.done()

        wait_until("it is over", over)
    lines = asked.result().splitlines()
    assert re.fullmatch(r"allocated by Python code in 1 s and still held: \d+ bytes", lines[0])
    assert all(re.fullmatch(r"\d+ bytes in \d+ blocks: .+:\d+", line) for line in lines[3:])
    assert any("/proxy/worker.py:" in line for line in lines)


# --- connections ---------------------------------------------------------------------------------


def test_sessions_of_all_workers(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, **options())
    with ExitStack() as stack:
        wires = {name: stack.enter_context(Wire(proxy.port)) for name in ("one", "two", "three")}
        assert {wire.ask("CLIENT", "SETNAME", name) for name, wire in wires.items()} == {b"+OK\r\n"}
        rows = [words(line) for line in ok(proxy, "sessions").splitlines()]
        found = {row["name"]: row for row in rows}
        assert set(found) == set(wires)
        assert {row["worker"] for row in rows} == {"0", "1"}
        assert {row["cluster"] for row in rows} == {"lab"}
        host, port = wires["one"].socket.getsockname()
        assert (found["one"]["addr"], found["one"]["cmd"]) == (f"{host}:{port}", "client|setname")


def test_upstreams_and_what_waits_on_them(proxy: ProxyProcess, cluster: RedisCluster) -> None:
    def rows() -> list[dict[str, str]]:
        return [words(line) for line in ok(proxy, "upstreams").splitlines()]

    with Wire(proxy.port) as wire, Wire(proxy.port) as subscribed:
        wire.send(pack("HELLO", "3") + pack("GET", "a") + pack("CLIENT", "ID") + pack("BLPOP", "none", "0"))
        subscribed.send(pack("SUBSCRIBE", "channel"))
        server = str(cluster.master_of("none").address)
        awaited = {"kind": "pinned", "state": "open", "waiting": "1"}
        wait_until("it waits", lambda: any(awaited.items() <= row.items() for row in rows()))
        (pinned,) = [row for row in rows() if row["session"] != "0"]
        assert (pinned["server"], pinned["resp"]) == (server, "3")
        assert int(pinned["output"]) >= len(pack("BLPOP", "none", "0"))
        first = float(pinned["waited"])
        wait_until("it waits on", lambda: any(float(row["waited"]) > first for row in rows()))
        wait_until("it is subscribed", lambda: any(row["kind"] == "subscriber" for row in rows()))
        shared = [row for row in rows() if row["kind"] == "shared" and row["resp"] == "3"]
        assert str(cluster.master_of("a").address) in {row["server"] for row in shared}
        assert {row["cluster"] for row in rows()} == {"lab"}
    wait_until("the pin is nobody's", lambda: all(row["session"] == "0" for row in rows()))


def test_a_server_that_can_not_be_connected_to(
    new_cluster: Callable[..., RedisCluster], new_proxy: Proxies
) -> None:
    cluster = new_cluster(masters=3, replicas=0, node_timeout=15000)
    proxy = new_proxy(cluster, **options())
    lost = cluster.master_of("a")
    lost.kill()
    with Wire(proxy.port) as wire:
        wire.send(pack("GET", "a"))
        wait_until(
            "it rests",
            lambda: any(
                (row["server"], row["state"]) == (str(lost.address), "resting") and int(row["failures"]) > 0
                for row in map(words, ok(proxy, "upstreams").splitlines())
            ),
        )
