"""Both configuration files: every key, its default, and what it is read as."""

import hashlib
import re
from dataclasses import MISSING, fields
from ipaddress import ip_network
from pathlib import Path

import pytest

from proxy.address import Address
from proxy.config import ClientUser, ClusterConfig, Options, ProxyConfig, keys
from proxy.config_files import load
from tests.unit.config_texts import CLUSTER, LEAST, PROXY, SECRET, Files

EXAMPLES = Path(__file__).parents[2] / "templates" / "examples"


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
    assert (cluster.slowlog_slower_than, cluster.topology_interval, cluster.topology_floor) == (
        0,
        10_000,
        100,
    )


def test_defaults_of_the_clusters_keys_of_ours(files: Files) -> None:
    (cluster,) = files.load(LEAST).clusters
    assert (cluster.client_password, cluster.client_users, cluster.announce_addr) == ("", (), None)
    assert (cluster.read_from, cluster.zone, cluster.server_zones) == ("master", "", ())
    assert cluster.pinned_connections == 1000
    assert cluster.denied_commands == ("flushall", "flushdb")


def test_defaults_of_ours() -> None:
    proxy = ProxyConfig()
    assert (proxy.threads, proxy.drain_delay, proxy.shutdown_timeout) == (0, 0, 10_000)
    assert proxy.tcp_keepalive == 60_000
    assert (proxy.max_pipeline, proxy.pipeline_bytes) == (1024, 4194304)
    assert (proxy.output_pause, proxy.output_limit) == (1048576, 1073741824)
    assert (proxy.query_limit, proxy.max_bulk_length) == (1073741824, 536870912)
    assert proxy.memory_limit == 0
    assert (proxy.max_arguments, proxy.max_inline_length) == (1048576, 65536)


def test_without_a_proxy_file_metrics_are_on(files: Files) -> None:
    assert load(files.cluster).proxy == ProxyConfig(use_metrics=True)


def test_an_empty_string_is_no_value(files: Files) -> None:
    config = files.load(
        LEAST
        + 'hash_method = ""\nhash_distribution = ""\nhash_tag = ""\nlisten_proto = ""\ncache_type = ""\n',
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


def test_what_is_for_operators_is_on_loopback_unless_it_is_said(files: Files) -> None:
    proxy = files.load(LEAST, 'stat = "8080"\npprof = ":6060"\n').proxy
    assert (proxy.stat, proxy.pprof) == (Address("127.0.0.1", 8080), Address("127.0.0.1", 6060))


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
    config = files.load(
        "".join(LEAST.replace('"a"', f'"{n}"').replace("6379", f"{7000 + n}") for n in range(5))
    )
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


def digest(password: str) -> bytes:
    return hashlib.sha256(password.encode()).digest()


def test_denied_commands(files: Files) -> None:
    config = files.one("denied_commands", '["KEYS", "Client|Kill", "@Dangerous", "ft.dropindex"]')
    assert config.denied_commands == ("keys", "client|kill", "@dangerous", "ft.dropindex")
    assert files.one("denied_commands", "[]").denied_commands == ()


def test_client_users(files: Files) -> None:
    hashed = digest("other").hex()
    config = files.one(
        "client_users", f'["bob:{SECRET}", "eve:a:b#c", "ann:#{hashed}", "ben:#{hashed.upper()}"]'
    )
    assert config.client_users == (
        ClientUser("bob", digest(SECRET), SECRET),
        ClientUser("eve", digest("a:b#c"), "a:b#c"),
        ClientUser("ann", digest("other")),
        ClientUser("ben", digest("other")),
    )
    assert SECRET not in repr(config)
    assert SECRET not in repr(config.client_users)
    assert files.one("client_users", "[]").client_users == ()
    assert files.one("client_password", f'"{SECRET}"').client_password == SECRET


def test_announce_addr(files: Files) -> None:
    assert files.one("announce_addr", '"lb.example:7"').announce_addr == Address("lb.example", 7)
    assert files.one("announce_addr", '""').announce_addr is None


def test_server_zones(files: Files) -> None:
    config = files.one("server_zones", '["10.0.1.0/24 eu-west-1a", "10.0.2.7 b", "fd00::/8  c"]')
    assert config.server_zones == (
        (ip_network("10.0.1.0/24"), "eu-west-1a"),
        (ip_network("10.0.2.7/32"), "b"),
        (ip_network("fd00::/8"), "c"),
    )
    assert files.one("server_zones", "[]").server_zones == ()


# --- the declarations and the examples -----------------------------------------------------------


@pytest.mark.parametrize("config", [ProxyConfig, ClusterConfig, Options])
def test_every_field_is_declared(config: type[ProxyConfig | ClusterConfig | Options]) -> None:
    declared = {name: key for _, name, key in keys(config)}
    assert list(declared) == [field.name for field in fields(config)]
    for name, key in declared.items():
        assert key.doc.endswith((".", ")")), name
        if key.kind is int and key.default is not MISSING:
            assert key.minimum <= key.default <= key.maximum, name
        if name.endswith(("timeout", "interval", "floor")):
            assert key.unit == "ms", name
        assert key.secret is (name in {"redis_auth", "client_password", "client_users"})


@pytest.mark.parametrize("config", [ProxyConfig, ClusterConfig])
def test_the_examples_explain_every_key(config: type[ProxyConfig | ClusterConfig]) -> None:
    name = "conf_proxy.toml" if config is ProxyConfig else "conf_cluster.toml"
    blocks = (EXAMPLES / name).read_text(encoding="utf-8").split("\n\n")
    for _, key_name, key in keys(config):
        (block,) = [block for block in blocks if re.search(rf"^{key_name} = ", block, re.MULTILINE)]
        comment = " ".join(line.removeprefix("# ") for line in block.splitlines() if line.startswith("# "))
        assert key.doc in comment, key_name
        assert comment.endswith(key.note), key_name


def test_the_examples_give_the_defaults() -> None:
    config = load(EXAMPLES / "conf_cluster.toml", EXAMPLES / "conf_proxy.toml")
    (cluster,) = config.clusters
    own = {"name", "listen_addr", "servers", "dial_timeout", "read_timeout", "write_timeout"}
    assert {name for _, name, key in keys(ClusterConfig) if getattr(cluster, name) != key.default} == own
    assert {name for _, name, key in keys(ProxyConfig) if getattr(config.proxy, name) != key.default} == {
        "stat",
        "pprof",
        "stdout",
        "use_metrics",
    }
