"""The pages under /debug/pprof: what a live process does, what it holds, and what it is connected to."""

import ctypes
import gc
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from proxy.answers import session_line
from proxy.dataplane import DataPlane
from proxy.stat_server import Page, Query, Refusal, Reply, text_page
from proxy.worker import Worker

T = TypeVar("T")

PREFIX = "/debug/pprof/"
SECONDS = 10
"""How long a profile takes unless the query says otherwise."""
MOST_SECONDS = 300
GRACE = 30.0
"""Seconds that a profile may take longer than was asked for."""
PATIENCE = 5.0
"""Seconds that workers have to answer."""
TOP = 100
"""Lines of code that the heap page names."""

PR_SET_PTRACER = 0x59616D61


def pages(clusters: Sequence[str], workers: Sequence[Worker]) -> dict[str, Page]:
    """All pages by path; ``clusters`` are their names."""
    bounds = f"seconds=1..{MOST_SECONDS}, default {SECONDS}"
    described: dict[str, tuple[Page, str]] = {
        "threads": (thread_stacks, "where every thread is now"),
        "profile": (
            profile,
            f"CPU profile, compiled code too: {bounds}; format={'|'.join(FORMATS)}, default {DEFAULT_FORMAT}",
        ),
        "heap": (heap, f"what Python code allocates in a time and does not free, by line: {bounds}"),
        "objects": (object_counts, "how many Python objects there are, by type"),
        "sessions": (partial(_sessions, clusters, workers), "every client's connection, as in CLIENT LIST"),
        "upstreams": (partial(_upstreams, clusters, workers), "every connection to a server"),
    }
    index = "".join(f"{PREFIX}{name:10} {what}\n" for name, (_, what) in described.items())
    found: dict[str, Page] = {PREFIX: lambda _: text_page(200, index)}
    return found | {f"{PREFIX}{name}": page for name, (page, _) in described.items()}


# --- what a query asks for -----------------------------------------------------------------------


def _seconds(query: Query) -> int:
    text = query.get("seconds", str(SECONDS))
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MOST_SECONDS:
        raise Refusal(400, f"seconds={text!a}: must be a whole number from 1 to {MOST_SECONDS}")
    return int(text)


def _known(query: Query, *names: str) -> None:
    for name in query:
        if name not in names:
            raise Refusal(400, f"{name!a}: no such parameter; there are: {', '.join(names)}")


@contextmanager
def _alone(lock: threading.Lock) -> Iterator[None]:
    if not lock.acquire(blocking=False):
        raise Refusal(409, "one is being taken already: ask again when it is over")
    try:
        yield
    finally:
        lock.release()


# --- threads and objects -------------------------------------------------------------------------


def thread_stacks(_query: Query) -> Reply:
    """Where every thread is now. A worker in its data plane shows the line that entered it."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    text = []
    for ident, frame in sys._current_frames().items():
        text.append(f"thread {names.get(ident, '?')} ({ident})\n")
        text.extend(traceback.format_stack(frame))
        text.append("\n")
    return text_page(200, "".join(text))


def stack_of(thread: threading.Thread) -> str:
    """Where a thread is now."""
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame)).rstrip() if frame else "its end"


def object_counts(_query: Query) -> Reply:
    """How many blocks of memory Python holds, and how many objects of each type that its collector knows."""
    gc.collect()
    counts = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
    lines = [(sys.getallocatedblocks(), "blocks of memory")]
    lines += [(count, name) for name, count in counts.most_common()]
    return text_page(200, "".join(f"{count} {name}\n" for count, name in lines))


# --- the CPU profile -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Format:
    """A format of profiles: what py-spy calls it, and its content type."""

    name: str
    kind: str


FORMATS = {
    "collapsed": Format("raw", "text/plain; charset=utf-8"),
    "speedscope": Format("speedscope", "application/json"),
    "flamegraph": Format("flamegraph", "image/svg+xml"),
}
DEFAULT_FORMAT = "collapsed"

NOT_INSTALLED = """\
py-spy, which takes profiles, is not installed.
Install it where this proxy is installed: pip install 'redis-proxy[profile]', or py-spy alone.
"""
FAILED = """\
py-spy failed:

{said}

If it was not permitted: it attaches to this process with ptrace(2). The system call filter of the container
or of the systemd unit must allow that (SystemCallFilter=ptrace), and the sysctl kernel.yama.ptrace_scope,
where there is one, must be 0 or 1.
"""

_profiling = threading.Lock()


def profile(query: Query) -> Reply:
    """Where threads spend their time. py-spy samples us from a process of its own, compiled code too."""
    _known(query, "seconds", "format")
    seconds = _seconds(query)
    chosen = query.get("format", DEFAULT_FORMAT)
    if chosen not in FORMATS:
        raise Refusal(400, f"format={chosen!a}: must be {' or '.join(FORMATS)}")
    program = _py_spy()
    if program is None:
        raise Refusal(501, NOT_INSTALLED)
    with _alone(_profiling), _children_may_trace(), tempfile.TemporaryDirectory() as directory:
        result = Path(directory, "profile")
        command = [
            *(program, "record", "--native", "--threads", "--pid", str(os.getpid())),
            *("--duration", str(seconds), "--format", FORMATS[chosen].name, "--output", str(result)),
        ]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds + GRACE, check=False
            )
        except subprocess.TimeoutExpired:
            raise Refusal(503, f"py-spy did not end within {GRACE:g} s after the profile") from None
        if done.returncode != 0 or not result.exists():
            raise Refusal(503, FAILED.format(said=done.stderr.decode(errors="replace").strip()))
        return 200, FORMATS[chosen].kind, result.read_bytes()


def _py_spy() -> str | None:
    """Where the program is: it comes into the environment that we run from."""
    return shutil.which(
        "py-spy", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    )


@contextmanager
def _children_may_trace() -> Iterator[None]:
    """Has Yama, where there is one, let our children trace us: otherwise only parents may trace.

    A process names who may trace it, and the descendants of that one may too: so we name ourselves.
    Without Yama the call fails, and is not needed.
    """
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_PTRACER, ctypes.c_ulong(os.getpid()), 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_PTRACER, 0, 0, 0, 0)


# --- the heap ------------------------------------------------------------------------------------

_tracing = threading.Lock()


def heap(query: Query) -> Reply:
    """What Python code allocates while it is watched. Watching costs, so it is not done all the time."""
    _known(query, "seconds")
    seconds = _seconds(query)
    with _alone(_tracing):
        tracemalloc.start()
        try:
            time.sleep(seconds)
            snapshot = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
    lines = snapshot.filter_traces([tracemalloc.Filter(False, tracemalloc.__file__)]).statistics("lineno")
    text = [
        f"allocated by Python code in {seconds} s and still held: {sum(line.size for line in lines)} bytes\n"
        "(of the data plane's buffers, /metrics tells: redis_proxy_buffer_bytes)\n\n"
    ]
    text += [f"{line.size} bytes in {line.count} blocks: {line.traceback[0]}\n" for line in lines[:TOP]]
    return text_page(200, "".join(text))


# --- connections ---------------------------------------------------------------------------------


def _sessions(clusters: Sequence[str], workers: Sequence[Worker], _query: Query) -> Reply:
    def of_cluster(plane: DataPlane, index: int) -> Iterable[str]:
        return (session_line(row).rstrip() for row in plane.sessions(index))

    return _told_by_workers(clusters, workers, of_cluster)


def _upstreams(clusters: Sequence[str], workers: Sequence[Worker], _query: Query) -> Reply:
    def of_cluster(plane: DataPlane, index: int) -> Iterable[str]:
        for row in plane.upstreams(index):
            yield " ".join(f"{name}={value}" for name, value in row._asdict().items())

    return _told_by_workers(clusters, workers, of_cluster)


def _told_by_workers(
    clusters: Sequence[str], workers: Sequence[Worker], of_cluster: Callable[[DataPlane, int], Iterable[str]]
) -> Reply:
    """A page of what each worker's thread tells of each cluster, a line for each thing."""

    def lines(plane: DataPlane) -> list[str]:
        return [
            f"cluster={name} {line}"
            for index, name in enumerate(clusters)
            for line in of_cluster(plane, index)
        ]

    deadline = time.monotonic() + PATIENCE
    answers = [(worker, worker.ask(lines)) for worker in workers]
    text = []
    for worker, answer in answers:
        prefix = f"worker={worker.number}"
        try:
            told = answer.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            told = [f"does not answer: see {PREFIX}threads"]
        text += [f"{prefix} {line}\n" for line in told]
    return text_page(200, "".join(text))
