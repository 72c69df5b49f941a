"""Threads for calls that may wait."""

import threading
from functools import partial
from queue import SimpleQueue

import pytest

from lab.processes import wait_until
from proxy import pool
from proxy.pool import Pool


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_no_more_threads_than_there_is_work_or_than_allowed() -> None:
    done: SimpleQueue[int] = SimpleQueue()
    gate = threading.Event()
    many = Pool("many", 3)

    def work(number: int) -> None:
        gate.wait(10)
        done.put(number)

    for number in range(10):
        many.submit(partial(work, number))
    wait_until("three are at work", lambda: names().count("many") == 3)
    gate.set()
    assert sorted(done.get(timeout=10) for _ in range(10)) == list(range(10))
    many.submit(lambda: done.put(10))
    assert done.get(timeout=10) == 10
    assert names().count("many") <= 3
    many.close()
    wait_until("they end", lambda: "many" not in names())


def test_one_that_waits_does_not_hold_up_the_next() -> None:
    done: SimpleQueue[str] = SimpleQueue()
    gate = threading.Event()
    two = Pool("two", 2)

    def wait() -> None:
        gate.wait(10)
        done.put("first")

    two.submit(wait)
    two.submit(lambda: done.put("second"))
    assert done.get(timeout=10) == "second"
    gate.set()
    assert done.get(timeout=10) == "first"
    two.close()


def test_a_thread_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "IDLE", 0.01)
    done: SimpleQueue[int] = SimpleQueue()
    short = Pool("short", 2)
    for number in range(3):
        short.submit(partial(done.put, number))
        assert done.get(timeout=10) == number
        wait_until("it ends", lambda: "short" not in names())


def test_nothing_begins_after_the_end() -> None:
    gate, begun = threading.Event(), threading.Event()
    closed = Pool("closed", 1)

    def wait() -> None:
        begun.set()
        gate.wait(10)

    closed.submit(wait)
    closed.submit(lambda: pytest.fail("begun"))
    assert begun.wait(10)
    closed.close()
    gate.set()
    wait_until("its thread ends", lambda: "closed" not in names())
