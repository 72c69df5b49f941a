"""Both configuration files: every key, every way to get one wrong, and where the error points."""

import re
import stat
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import toml
from hypothesis import given
from hypothesis import strategies as st

from proxy.address import Address
from proxy.config import ClusterConfig, Config, ConfigError, Key, Options, ProxyConfig, keys, load

EXAMPLES = Path(__file__).parents[2] / "templates" / "examples"

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


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# --- what is read --------------------------------------------------------------------------------


def test_the_usual_files(files: Files) -> None:
    config = files.load(CLUSTER, PROXY)
    assert config.proxy == ProxyConfig(
        stat=Address("0.0.0.0", 2110),
        pprof=Address("0.0.0.0", 2110),
        stdout=True,
        debug=True,
        log_lv=5,
        use_metrics=True,
    )
    assert config.clusters == (
        ClusterConfig(
            name="test-cluster",
            listen_addr=Address("0.0.0.0", 6379),
            dial_timeout=1000,
            read_timeout=1000,
            write_timeout=1000,
            slowlog_slower_than=10,
            servers=(Address("mycluster.clustercfg.use1.cache.amazonaws.com", 6379),),
        ),
    )


def test_defaults(files: Files) -> None:
    config = files.load(LEAST, "")
    assert config.proxy == ProxyConfig()
    assert not config.proxy.use_metrics
    (cluster,) = config.clusters
    assert (cluster.cache_type, cluster.hash_method, cluster.hash_distribution, cluster.hash_tag) == (
        "redis_cluster",
        "fnv1a_64",
        "ketama",
        "{}",
    )
    assert (cluster.listen_proto, cluster.redis_auth, cluster.redis_user) == ("tcp", "", "")
    assert (cluster.dial_timeout, cluster.read_timeout, cluster.write_timeout) == (0, 0, 0)
    assert (cluster.node_connections, cluster.ping_fail_limit, cluster.ping_auto_eject) == (2, 3, False)
    assert (cluster.slowlog_slower_than, cluster.topology_interval, cluster.topology_floor) == (0, 10_000, 100)


def test_defaults_of_ours() -> None:
    proxy = ProxyConfig()
    assert (proxy.threads, proxy.shutdown_timeout, proxy.tcp_keepalive) == (0, 10_000, 60_000)
    assert (proxy.max_pipeline, proxy.pipeline_bytes) == (1024, 4194304)
    assert (proxy.output_pause, proxy.output_limit) == (1048576, 1073741824)
    assert (proxy.query_limit, proxy.max_bulk_length) == (1073741824, 536870912)
    assert (proxy.max_arguments, proxy.max_inline_length) == (1048576, 65536)


def test_without_a_proxy_file_metrics_are_on(files: Files) -> None:
    assert load(files.cluster).proxy == ProxyConfig(use_metrics=True)


def test_an_empty_string_is_no_value(files: Files) -> None:
    config = files.load(
        LEAST + 'hash_method = ""\nhash_distribution = ""\nhash_tag = ""\nlisten_proto = ""\ncache_type = ""\n',
        'stat = ""\npprof = ""\nlog = ""\nfamily = ""\nhost = ""\n',
    )
    assert config == files.load(LEAST, "")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:6379", Address("10.0.0.1", 6379)),
        ("6379", Address("0.0.0.0", 6379)),
        (":6379", Address("0.0.0.0", 6379)),
        ("[::1]:6379", Address("::1", 6379)),
        ("localhost:6379", Address("localhost", 6379)),
    ],
)
def test_listen_addr(files: Files, text: str, address: Address) -> None:
    assert files.one("listen_addr", f'"{text}"').listen_addr == address


def test_listen_addr_of_unix(files: Files) -> None:
    unix = LEAST.replace('"6379"', '"/run/proxy/redis.sock"\nlisten_proto = "unix"')
    (config,) = files.load(unix).clusters
    assert config.listen_addr == "/run/proxy/redis.sock"


@pytest.mark.parametrize(
    ("servers", "addresses"),
    [
        ('["n:1"]', (Address("n", 1),)),
        ('["n:1", "m:2"]', (Address("n", 1), Address("m", 2))),
        ('["n:1:1"]', (Address("n", 1),)),
        ('["n:1:10 redis1"]', (Address("n", 1),)),
        ('["n:1", "m:2:0 x"]', (Address("n", 1), Address("m", 2))),
        ('["[::1]:1", "[::2]:2:5 x"]', (Address("::1", 1), Address("::2", 2))),
        ('[\n  "n:1", # one\n  "n:1",\n  "m:2",\n]', (Address("n", 1), Address("m", 2))),
    ],
)
def test_servers(files: Files, servers: str, addresses: tuple[Address, ...]) -> None:
    assert files.one("servers", servers).servers == addresses


@pytest.mark.parametrize("method", ["fnv1a_64", "fnv1a64", "crc16", "md5", "sha1", "murmur", "one_on_time"])
def test_hash_methods_of_overlord(files: Files, method: str) -> None:
    assert files.one("hash_method", f'"{method}"').hash_method == method


def test_log_lv_has_two_names(files: Files) -> None:
    for text in ("log_lv = 3", "log_vl = 3", "log_lv = 3\nlog_vl = 3"):
        assert files.load(proxy=text).proxy.log_lv == 3
    assert files.error(proxy="log_lv = 3\nlog_vl = 4") == (
        "conf_proxy.toml:2: log_vl = 4: differs from log_lv, which means the same; give one"
    )
    assert "conf_proxy.toml:2: log_lv = 4: differs from log_vl" in files.error(proxy="log_vl = 3\nlog_lv = 4")


def test_several_clusters(files: Files) -> None:
    config = files.load("".join(LEAST.replace('"a"', f'"{n}"').replace("6379", f"{7000 + n}") for n in range(5)))
    assert [cluster.name for cluster in config.clusters] == list("01234")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks(files: Files, newline: str, mark: str) -> None:
    expected = files.load(CLUSTER, PROXY)
    assert files.load(mark + CLUSTER.replace("\n", newline), mark + PROXY.replace("\n", newline)) == expected


def test_flags_override_files(files: Files) -> None:
    config = files.load(
        CLUSTER + LEAST.replace("6379", "6380"),
        PROXY,
        proxy_flags={"stat": Address("127.0.0.1", 9), "log_lv": 1},
        cluster_flags={"slowlog_slower_than": 77},
    )
    assert (config.proxy.stat, config.proxy.log_lv) == (Address("127.0.0.1", 9), 1)
    assert [cluster.slowlog_slower_than for cluster in config.clusters] == [77, 77]


def test_the_password_is_read_and_never_shown(files: Files) -> None:
    config = files.load(LEAST + f'redis_user = "bob"\nredis_auth = "{SECRET}#\'x"\n')
    assert config.clusters[0].redis_auth == f"{SECRET}#'x"
    assert "bob" in repr(config)
    assert SECRET not in repr(config)


# --- what is refused -----------------------------------------------------------------------------


ALL_KEYS = [
    pytest.param(config, table, name, key, id=f"{table or 'top'}-{name}")
    for config in (ProxyConfig, ClusterConfig)
    for table, name, key in keys(config)
]

WRONG_KINDS: dict[type, tuple[str, ...]] = {
    bool: ("1", '"true"', "[true]", "1979-05-27"),
    int: ("true", "1.5", '"1"', "[1]", "nan", "07:32:00"),
    str: ("1", "true", '["x"]', "{ a = 1 }"),
}


@pytest.mark.parametrize(("config", "table", "name", "key"), ALL_KEYS)
def test_values_of_the_wrong_type(files: Files, config: type, table: str, name: str, key: Key) -> None:
    values = ('"n:1"', "1", "{ a = 1 }", "[1]", "[true]") if key.many else WRONG_KINDS[key.kind]
    for value in values:
        error, line = _error_of(files, config, table, name, value)
        assert re.search(rf":{line}: .*{name} = .*: is (a|an) \w+.*; must be ", error), error


NUMBERS = [param for param in ALL_KEYS if isinstance(param.values[3], Key) and param.values[3].kind is int]


@pytest.mark.parametrize(("config", "table", "name", "key"), NUMBERS)
def test_numbers_out_of_range(files: Files, config: type, table: str, name: str, key: Key) -> None:
    for value in (-1, key.minimum - 1, key.maximum + 1, 2**63, 2**99):
        error, line = _error_of(files, config, table, name, str(value))
        limits = f"{key.minimum} to {key.maximum} {key.unit}".rstrip()
        assert error.endswith(f"{name} = {value}: is out of range; must be {limits}")
        assert f".toml:{line}: " in error
    error, _ = _error_of(files, config, table, name, "0x" + "f" * 20_000)
    assert len(error) < 1000


@pytest.mark.parametrize(("config", "table", "name", "key"), NUMBERS)
def test_numbers_at_the_limits(files: Files, config: type, table: str, name: str, key: Key) -> None:
    for value in (key.minimum, key.maximum):
        text, _ = _with(config, table, name, str(value))
        if name in {"output_pause", "output_limit", "topology_interval", "topology_floor"}:
            continue  # held against each other below
        loaded = files.load(**text)
        assert getattr(loaded.proxy if config is ProxyConfig else loaded.clusters[0], name) == value


def _with(config: type, table: str, name: str, value: str) -> tuple[dict[str, str], int]:
    """Files that give one key a value, and the line where they do."""
    if config is ProxyConfig:
        return {"proxy": f"# the process\n{f'[{table}]' if table else ''}\n{name} = {value}\n"}, 3
    lines = [line for line in LEAST.splitlines() if not line.startswith(f"{name} ")]
    return {"cluster": "\n".join([*lines, "", f"{name} = {value}"])}, len(lines) + 2


def _error_of(files: Files, config: type, table: str, name: str, value: str) -> tuple[str, int]:
    text, line = _with(config, table, name, value)
    return files.error(**text), line


@pytest.mark.parametrize(("larger", "smaller"), [(LEAST, "topology_floor"), ("[proxy]\n", "output_pause")])
def test_numbers_that_belong_together(files: Files, larger: str, smaller: str) -> None:
    limit = {"topology_floor": "topology_interval", "output_pause": "output_limit"}[smaller]
    which = "cluster" if larger == LEAST else "proxy"
    files.load(**{which: larger + f"{smaller} = 5\n{limit} = 5\n"})
    both = files.error(**{which: larger + f"{limit} = 5\n{smaller} = 6\n"})
    assert f"{smaller} = 6: {smaller} is 6 and {limit} 5 " in both
    assert f":{larger.count(chr(10)) + 2}: " in both
    assert f"{limit} = 4: " in files.error(**{which: larger + f"{limit} = 4\n"})


CASES: list[tuple[str, str, str]] = [
    # In the usual -cluster file: what is replaced, by what, and the error.
    (
        'name = "test-cluster"',
        "",
        ":1: [[clusters]]: name is missing; must be given",
    ),
    ('"test-cluster"', '""', ":3: [[clusters]] name = '': is empty; must be given"),
    ('"test-cluster"', '"a\\tb"', ":3: [[clusters]] name = 'a\\tb': holds a character that can't be printed"),
    (
        "listen_addr",
        "listen_adr",
        ":9: [[clusters]] listen_adr: is not known (did you mean listen_addr?)",
    ),
    ("listen_addr", "Listen_Addr", ":9: [[clusters]] Listen_Addr: is not known (did you mean listen_addr?)"),
    ("0.0.0.0:6379", "0.0.0.0:70000", ":9: [[clusters]] listen_addr = '0.0.0.0:70000': port 70000 is not in 1..65535"),
    ("0.0.0.0:6379", "0.0.0.0:0", ":9: [[clusters]] listen_addr = '0.0.0.0:0': port 0 is not in 1..65535"),
    ("0.0.0.0:6379", "::1:6379", ":9: [[clusters]] listen_addr = '::1:6379': more than one colon"),
    ("dial_timeout =", "max_pipeline =", ":11: [[clusters]] max_pipeline: is not known here; belongs in [proxy] in the -conf"),
    ("dial_timeout =", "stat =", ":11: [[clusters]] stat: is not known here; belongs in the top of the -conf file"),
    ("dial_timeout =", "node_pipe_count =", ":11: [[clusters]] node_pipe_count = 1000: has no counterpart"),
    ("dial_timeout =", "xyzzy =", ":11: [[clusters]] xyzzy: is not known"),
    ("tcp", "udp", ":8: [[clusters]] listen_proto = 'udp': is not known; must be 'tcp' or 'unix'"),
    ("tcp", "unix", ":9: [[clusters]] listen_addr = '0.0.0.0:6379': is not an absolute path"),
]
