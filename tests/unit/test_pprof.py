"""The pages under /debug/pprof where something is missing. Those of a whole process are in tests/cluster."""

import shutil
import tracemalloc
from unittest.mock import Mock

import pytest

from proxy import pprof
from proxy.config import Config, ProxyConfig
from proxy.stat_server import Refusal
from proxy.worker import Worker


def test_without_py_spy_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(Refusal, match=r"pip install 'redis-proxy\[profile\]'") as refusal:
        pprof.profile({})
    assert refusal.value.status == 501


def test_allocations_are_watched_only_for_a_time() -> None:
    assert pprof.heap({"seconds": "1"})[0] == 200
    assert not tracemalloc.is_tracing()


def test_a_worker_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs; the others tell what they have."""
    monkeypatch.setattr(pprof, "PATIENCE", 0.01)
    worker = Worker(7, 1, Config(ProxyConfig(), ()), control=Mock(), dialer=Mock(), tallies=())
    status, _, text = pprof.pages(["a"], [worker])["/debug/pprof/upstreams"]({})
    assert (status, text) == (200, b"worker=7 does not answer: see /debug/pprof/threads\n")
