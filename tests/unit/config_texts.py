"""The two configuration files as texts, and what becomes of them."""

from pathlib import Path
from typing import Any

import pytest

from proxy.config import ClusterConfig, Config, ConfigError
from proxy.config_files import load

PROXY = """\
pprof = "0.0.0.0:2110"
stat = "0.0.0.0:2110"
stdout = true
debug = true
log = ""
log_lv = 5

[proxy]
    # The read timeout of clients.
    read_timeout = 0
    write_timeout = 0
    max_connections = 0
    use_metrics = true
"""

CLUSTER = """\
[[clusters]]
    # The name of the cluster.
    name = "test-cluster"
    hash_method = "fnv1a_64"
    hash_distribution = "ketama"
    hash_tag = "{}"
    cache_type = "redis_cluster"
    listen_proto = "tcp"
    listen_addr = "0.0.0.0:6379"
    redis_auth = ""
    dial_timeout = 1000
    read_timeout = 1000
    write_timeout = 1000
    node_connections = 2
    ping_fail_limit = 3
    ping_auto_eject = false
    slowlog_slower_than = 10
    servers = ["mycluster.clustercfg.use1.cache.amazonaws.com:6379"] # the configuration endpoint
"""

LEAST = """\
[[clusters]]
name = "a"
listen_addr = "6379"
servers = ["n:1"]
"""

SECRET = "Tr0ub4dor"


class Files:
    """The two files, in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.cluster = directory / "conf_cluster.toml"
        self.conf = directory / "conf_proxy.toml"
        self.cluster.write_text(LEAST)
        self.conf.write_text("")

    def load(self, cluster: str | None = None, proxy: str | None = None, **flags: Any) -> Config:
        if cluster is not None:
            self.cluster.write_text(cluster, encoding="utf-8", newline="")
        if proxy is not None:
            self.conf.write_text(proxy, encoding="utf-8", newline="")
        return load(self.cluster, self.conf, **flags)

    def one(self, key: str, value: str) -> ClusterConfig:
        """The least cluster with one more key, or another value of one it has."""
        lines = [line for line in LEAST.splitlines() if not line.startswith(f"{key} ")]
        (config,) = self.load("\n".join([*lines, f"{key} = {value}", ""])).clusters
        return config

    def error(self, cluster: str | None = None, proxy: str | None = None, **flags: Any) -> str:
        """The error for these files, from the file's name on; always one line, and never the password."""
        with pytest.raises(ConfigError) as caught:
            self.load(cluster, proxy, **flags)
        text = str(caught.value)
        assert text.isprintable()
        assert SECRET not in text
        assert text.startswith((str(self.cluster), str(self.conf)))
        return text.removeprefix(f"{self.cluster.parent}/")
