"""The proxy as a process of its own, as users run it."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import toml
from prometheus_client.parser import text_string_to_metric_families

from lab.processes import Started, end, free_ports, start, wait_until
from proxy.address import Address

Value = str | int | bool | list[str]


class ProxyProcess(Started):
    """``python -m proxy`` with two generated files."""

    def __init__(
        self,
        servers: Sequence[Address],
        *,
        port: int = 0,
        stat_port: int = 0,
        top: Mapping[str, Value] | None = None,
        proxy: Mapping[str, Value] | None = None,
        cluster: Mapping[str, Value] | None = None,
        flags: Sequence[str] = (),
        prefix: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        wait: bool = True,
    ) -> None:
        """``top``, ``proxy`` and ``cluster`` are keys of the two files' tables.

        With ``wait``, it starts ready or not at all. ``prefix`` is a command that runs it;
        ``pass_fds`` are descriptors it inherits.
        """
        free = free_ports(2)
        self.port = port or free[0]
        self.stat_port = stat_port or free[1]
        self._directory = Path(tempfile.mkdtemp(prefix="redis-proxy-"))
        self._wait = wait
        self._flags = flags
        self._prefix = prefix
        self._pass_fds = pass_fds
        self._process: subprocess.Popen[bytes] | None = None
        self._proxy_file: dict[str, Any] = {
            "stat": f"127.0.0.1:{self.stat_port}",
            **(top or {}),
            "proxy": {"use_metrics": True, **(proxy or {})},
        }
        self._cluster: dict[str, Any] = {
            "name": "lab",
            "hash_method": "fnv1a_64",
            "hash_distribution": "ketama",
            "hash_tag": "{}",
            "cache_type": "redis_cluster",
            "listen_proto": "tcp",
            "listen_addr": f"127.0.0.1:{self.port}",
            "redis_auth": "",
            "dial_timeout": 1000,
            "read_timeout": 10000,
            "write_timeout": 10000,
            "node_connections": 2,
            "ping_fail_limit": 3,
            "ping_auto_eject": True,
            "slowlog_slower_than": 0,
            "denied_commands": [],
            "servers": [str(server) for server in servers],
            **(cluster or {}),
        }

    @property
    def cluster_file(self) -> Path:
        return self._directory / "conf_cluster.toml"

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def returncode(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll() if self._process else None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def log(self) -> str:
        path = self._directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Raises RuntimeError, with what it printed, when it ends, and TimeoutError when it gets nowhere."""
        self.configure()
        self._process = start(
            [
                *self._prefix,
                sys.executable,
                "-m",
                "proxy",
                "-cluster",
                "conf_cluster.toml",
                "-conf",
                "conf_proxy.toml",
                *self._flags,
            ],
            self._directory / "log",
            cwd=self._directory,
            pass_fds=self._pass_fds,
        )
        wait_until(
            "the proxy is ready" if self._wait else "the proxy answers",
            lambda: self.readiness() == 200 if self._wait else self.readiness(),
        )

    def configure(
        self, *, proxy: Mapping[str, Value] | None = None, cluster: Mapping[str, Value] | None = None
    ) -> None:
        """Writes the files, with these keys changed."""
        self._proxy_file["proxy"] |= proxy or {}
        self._cluster |= cluster or {}
        (self._directory / "conf_proxy.toml").write_text(toml.dumps(self._proxy_file))
        self.cluster_file.write_text(toml.dumps({"clusters": [self._cluster]}))

    def reload(self) -> dict[str, Any]:
        """Has it read the files again, as ExecReload does; returns /status once it has."""
        before = self.status()
        self.process.send_signal(signal.SIGHUP)
        wait_until(
            "the reload is over",
            lambda: self.status()["config_epoch"] > before["config_epoch"] or self.status()["reload_failed"],
        )
        return self.status()

    def status(self) -> dict[str, Any]:
        """/status"""
        return dict(json.loads(self.page("/status")))

    def readiness(self) -> int:
        """The status of /readyz; 0 while nobody listens there."""
        if self.returncode is not None:
            raise RuntimeError(f"the proxy ended with status {self.returncode}:\n{self.log()}")
        try:
            return self.get("/readyz")[0]
        except (urllib.error.URLError, ConnectionError):
            return 0

    def page(self, path: str) -> str:
        return self.get(path)[1]

    def get(self, path: str, timeout: float = 5) -> tuple[int, str]:
        """Status and text of a page."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.stat_port}{path}", timeout=timeout) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.page("/metrics"))
            for sample in family.samples
            if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
        )

    def wait_for_metric(self, name: str, least: float, **labels: str) -> None:
        wait_until(f"{name}{labels} reaches {least:g}", lambda: self.metric(name, **labels) >= least)

    def stop(self) -> int:
        """Ends it as systemd would, and returns its status."""
        status = end(self._process, 15) if self._process else 0
        shutil.rmtree(self._directory, ignore_errors=True)
        return status
