"""Every way to get a configuration file wrong, and where the error points."""

import json
import re
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.address import Address
from proxy.config import ClusterConfig, ConfigError, Key, ProxyConfig, keys
from proxy.config_files import load
from tests.unit.config_texts import CLUSTER, LEAST, PROXY, SECRET, Files

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
    for value in (-1, key.minimum - 1, key.maximum + 1, 2**63):
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


# In the usual -cluster file: what is replaced, by what, and how the error goes on after the file's name.
CLUSTER_CASES = [
    ('name = "test-cluster"', "", ":1: [[clusters]]: name is missing; must be given"),
    ("listen_addr =", "# listen_addr =", ":1: [[clusters]]: listen_addr is missing; must be given"),
    ("servers =", "# servers =", ":1: [[clusters]]: servers is missing; must be given"),
    ('"test-cluster"', '""', ":3: [[clusters]] name = '': is empty; must be given"),
    ('"test-cluster"', r'"a\tb"', r":3: [[clusters]] name = 'a\tb': holds a character that can't be printed"),
    ("listen_addr", "listen_adr", ":9: [[clusters]] listen_adr: is not known (did you mean listen_addr?)"),
    ("listen_addr", "Listen_Addr", ":9: [[clusters]] Listen_Addr: is not known (did you mean listen_addr?)"),
    ("dial_timeout", "xyzzy", ":11: [[clusters]] xyzzy: is not known"),
    (
        "dial_timeout",
        '"dial timeout"',
        ":1: [[clusters]]: is not TOML: a key is made of letters, digits, _ and -",
    ),
    (
        "dial_timeout",
        "max_pipeline",
        ":11: [[clusters]] max_pipeline: is not known here; belongs in [proxy] in",
    ),
    (
        "dial_timeout",
        "stat",
        ":11: [[clusters]] stat: is not known here; belongs in the top of the -conf file",
    ),
    ("dial_timeout", "node_pipe_count", ":11: [[clusters]] node_pipe_count = 1000: has no counterpart"),
    (
        "[[clusters]]",
        "[clusters]",
        ":1: clusters is a table; must be one [[clusters]] table for each cluster",
    ),
    ("[[clusters]]", "[[cluster]]", ":1: cluster: is not known (did you mean clusters?)"),
    (
        "[[clusters]]",
        "stat = 1\n[[clusters]]",
        ":1: stat: is not known here; belongs in the top of the -conf",
    ),
    ("[[clusters]]", "", ":3: name: is not known here; belongs in [[clusters]] in the -cluster file"),
    (CLUSTER, "", ": has no [[clusters]] table; must have one for each cluster"),
    (CLUSTER, "clusters = []", ": has no [[clusters]] table; must have one for each cluster"),
    (
        CLUSTER,
        "\nclusters = [1]",
        ":2: clusters is an array; must be one [[clusters]] table for each cluster",
    ),
    ("0.0.0.0:6379", "h:70000", ":9: [[clusters]] listen_addr = 'h:70000': port 70000 is not in 1..65535"),
    ("0.0.0.0:6379", "h:0", ":9: [[clusters]] listen_addr = 'h:0': port 0 is not in 1..65535"),
    ("0.0.0.0:6379", "::1:6379", ":9: [[clusters]] listen_addr = '::1:6379': more than one colon"),
    ("tcp", "udp", ":8: [[clusters]] listen_proto = 'udp': is not known; must be 'tcp' or 'unix'"),
    ("tcp", "unix", ":9: [[clusters]] listen_addr = '0.0.0.0:6379': is not an absolute path"),
    (
        '"redis_cluster"',
        '"redis"',
        ":7: [[clusters]] cache_type = 'redis': is not supported yet; only redis_cluster",
    ),
    ('"redis_cluster"', '"memcache"', ":7: [[clusters]] cache_type = 'memcache': is not supported yet; only"),
    (
        '"redis_cluster"',
        '"memcache_binary"',
        ":7: [[clusters]] cache_type = 'memcache_binary': is not supported yet",
    ),
    (
        '"fnv1a_64"',
        '"fnv1a-64"',
        ":4: [[clusters]] hash_method = 'fnv1a-64': is not known (did you mean fnv1a64?)",
    ),
    ('"ketama"', '"modula"', ":5: [[clusters]] hash_distribution = 'modula': is not known; must be 'ketama'"),
    (
        '"{}"',
        '"<>"',
        ":6: [[clusters]] hash_tag = '<>': can't be honoured: the hash tag of a Redis Cluster is",
    ),
    ('redis_auth = ""', 'redis_user = "bob"', ":10: [[clusters]] redis_user = 'bob': redis_auth is missing"),
    (
        "node_connections = 2",
        "node_connections = 0",
        ":14: [[clusters]] node_connections = 0: is out of range",
    ),
]

# In the same way, in its server.
SERVER_CASES = [
    (".com", ".com': not host:port"),
    (".com:6379:-2", ".com:6379:-2': weight '-2' is not a number of at least 0"),
    (".com:6379:", ".com:6379:': weight '' is not a number of at least 0"),
    (".com:6379:1 a b", ".com:6379:1 a b': is not host:port, host:port:weight or host:port:weight alias"),
    (".com:6379 a", ".com:6379 a': is not host:port, host:port:weight or host:port:weight alias"),
    (".com:6379:1:1", ".com:6379:1:1': more than one colon"),
    (".com:6379:1 ", ".com:6379:1 ': is not host:port, host:port:weight or host:port:weight alias"),
    ('.com:6379", "', "': not host:port"),
]


@pytest.mark.parametrize(("old", "new", "error"), CLUSTER_CASES)
def test_wrong_cluster_files(files: Files, old: str, new: str, error: str) -> None:
    assert old in CLUSTER
    assert files.error(CLUSTER.replace(old, new), PROXY).startswith(f"conf_cluster.toml{error}")


@pytest.mark.parametrize(("new", "error"), SERVER_CASES)
def test_wrong_servers(files: Files, new: str, error: str) -> None:
    text = files.error(CLUSTER.replace(".com:6379", new))
    assert text.startswith("conf_cluster.toml:18: [[clusters]] servers = ")
    assert error in text


def test_no_servers(files: Files) -> None:
    assert files.error(LEAST.replace('"n:1"', "")) == (
        "conf_cluster.toml:4: [[clusters]] servers = []: is empty; must hold at least one"
    )


PROXY_CASES = [
    ("[proxy]", "[poxy]", ":8: poxy: is not known (did you mean proxy?)"),
    ("[proxy]", "[[proxy]]", ":8: [proxy]: is an array; must be a table"),
    ("[proxy]", "proxy = 1", ":8: [proxy]: is an integer; must be a table"),
    (
        "[proxy]",
        "",
        ":10: read_timeout: is not known here; belongs in [proxy] in the -conf file or [[clusters]] in",
    ),
    ("log = ", "logs = ", ":5: logs: is not known (did you mean log?)"),
    ("log = ", 'family = "x"\nlog = ', ":5: family = 'x': has no effect, here as in Overlord; remove it"),
    ("log = ", 'host = "x"\nlog = ', ":5: host = 'x': has no effect, here as in Overlord; remove it"),
    ("log = ", "host = 1\nlog = ", ":5: host = 1: has no effect, here as in Overlord; remove it"),
    ('stat = "0.0.0.0:2110"', 'stat = "2110x"', ":2: stat = '2110x': port '2110x' is not a number"),
    ("use_metrics", "use_metric", ":13: [proxy] use_metric: is not known (did you mean use_metrics?)"),
    (
        'pprof = "0.0.0.0',
        'pprof = "127.0.0.1',
        ":1: pprof = '127.0.0.1:2110': can't be had beside stat, 0.0.0.0:2110",
    ),
    (PROXY, CLUSTER, ":1: clusters: is not known here; belongs in [[clusters]] in the -cluster file"),
    (PROXY, "proxy.read_timeout = -1", ":1: [proxy] read_timeout = -1: is out of range; must be 0 to"),
    (PROXY, "proxy = { read_timeout = -1 }", ":1: [proxy] read_timeout = -1: is out of range; must be 0 to"),
]


@pytest.mark.parametrize(("old", "new", "error"), PROXY_CASES)
def test_wrong_proxy_files(files: Files, old: str, new: str, error: str) -> None:
    assert old in PROXY
    assert files.error(CLUSTER, PROXY.replace(old, new)).startswith(f"conf_proxy.toml{error}")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('"test-cluster"', '"test-cluster', ":3: is not TOML: a string is not closed"),
        ("name =", "name", ":3: is not TOML: a key is made of letters"),
        ("dial_timeout = 1000", "dial_timeout =", ":11: is not TOML: a key has no value"),
        ("dial_timeout = 1000", "dial_timeout", ":11: is not TOML: a key has no = after it"),
        ("dial_timeout = 1000", "dial_timeout = 1s", ":11: is not TOML: a value is neither a number, nor"),
        ("dial_timeout = 1000", "dial_timeout = 01", ":11: is not TOML: a number has leading zeros"),
        ("= false", "= False", ":16: is not TOML: true and false are written in lower case"),
        ("dial_timeout = 1000", "name = 'x'", ":11: is not TOML: a key is given twice"),
        ("[[clusters]]", "[[clusters]", ":1: is not TOML: a table's header is not closed"),
        ("[[clusters]]", "[[clusters]]\n[clusters]", ":2: is not TOML: a table is given twice"),
        ("[[clusters]]", "[clusters]\n[[clusters]]", ":2: is not TOML"),
        ("[[clusters]]", "[[a b]]", ":1: is not TOML: a table's name is made of"),
        (
            '6379"] #',
            '6379" #',
            ":18: is not TOML: something follows the end of a string; or a comma or ] is missing",
        ),
        ('servers = ["', 'servers = ["n:1" "', ":18: is not TOML: something follows the end of a string"),
        ('servers = ["', 'servers = [1, "', ":18: is not TOML: an array holds values of different types"),
        (
            '"ketama"',
            r'"\ketama"',
            r":5: is not TOML: a string holds an unknown escape; write a backslash as \\",
        ),
        ('"ketama"', "{ a = 1", ":5: is not TOML"),
        ('["mycluster.clustercfg.use1.cache.amazonaws.com:6379"]', "[1, 2", ":18: is not TOML"),
    ],
)
def test_what_is_not_toml(files: Files, old: str, new: str, error: str) -> None:
    assert old in CLUSTER
    assert files.error(CLUSTER.replace(old, new)).startswith(f"conf_cluster.toml{error}")


@pytest.mark.parametrize("end", ["", "\n", "\n\n# the end\n"])
@pytest.mark.parametrize(
    "servers", ['["n:6379"', '["n:6379",', '[\n"n:6379",\n"m:6379"', '"""n', "'''n'", "['''n"]
)
def test_a_file_that_is_cut_off(files: Files, servers: str, end: str) -> None:
    """The parser itself takes the first of these for the server n:637."""
    cut = LEAST.replace('["n:1"]\n', servers + end)
    assert files.error(cut).startswith("conf_cluster.toml:4: is not TOML")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('denied_commands = [""]', "denied_commands = '': is not a command's name, as in 'keys' or"),
        ('denied_commands = ["client kill"]', "denied_commands = 'client kill': is not a command's name"),
        (
            'denied_commands = ["Flushal"]',
            "denied_commands = 'Flushal': is no command (did you mean flushall?)",
        ),
        ('denied_commands = ["@admn"]', "denied_commands = '@admn': is no category (did you mean admin?)"),
        ('denied_commands = ["AUTH"]', "denied_commands = 'AUTH': can't be denied"),
        ('client_users = ["bob"]', "client_users = (hidden): is not name:password"),
        ('client_users = [""]', "client_users = (hidden): is not name:password"),
        ('client_users = ["bob:"]', "client_users = (hidden): is not name:password"),
        (f'client_users = [":{SECRET}"]', "client_users = (hidden): is not name:password"),
        (f'client_users = ["b b:{SECRET}"]', "client_users = (hidden): the name holds a space or"),
        (f'client_users = ["b\\u0007b:{SECRET}"]', "client_users = (hidden): the name holds a space or"),
        (
            f'client_users = ["bob:#{SECRET}"]',
            "client_users = (hidden): the password begins with # and is not",
        ),
        (
            f'client_users = ["bob:#{"0" * 63}"]',
            "client_users = (hidden): the password begins with # and is not",
        ),
        (
            f'client_users = ["default:{SECRET}"]',
            "client_users = (hidden): 'default' is the user that client_password is for",
        ),
        (f'client_users = ["bob:{SECRET}", "bob:x"]', "client_users = (hidden): user 'bob' is given twice;"),
        (f'client_users = "bob:{SECRET}"', "client_users = (hidden): is a string; must be an array"),
        (f'client_password = ["{SECRET}"]', "client_password = (hidden): is an array; must be a string"),
        ('announce_addr = "6379"', "announce_addr = '6379': not host:port"),
        ('announce_addr = "lb:0"', "announce_addr = 'lb:0': port 0 is not in"),
        ('read_from = "replicas"', "read_from = 'replicas': is not known (did you mean replica?); must be"),
        ('server_zones = ["10.0.1.0/24"]', "server_zones = '10.0.1.0/24': is not a CIDR and a zone, as in"),
        ('server_zones = ["10.0.1.0/24 a b"]', "server_zones = '10.0.1.0/24 a b': is not a CIDR and a zone"),
        (
            'server_zones = ["10.0.1.5/24 a"]',
            "server_zones = '10.0.1.5/24 a': not a CIDR: 10.0.1.5/24 has host",
        ),
        ('server_zones = ["host a"]', "server_zones = 'host a': not a CIDR: 'host' does not appear to be"),
        ("pinned_connections = 0", "pinned_connections = 0: is out of range; must be 1 to"),
    ],
)
def test_wrong_values_of_the_clusters_keys_of_ours(files: Files, line: str, problem: str) -> None:
    assert files.error(LEAST + line).startswith(f"conf_cluster.toml:5: [[clusters]] {problem}")


def test_the_line_of_one_user(files: Files) -> None:
    text = LEAST + f'client_users = [\n"bob:{SECRET}",\n"eve",\n]\n'
    assert files.error(text) == (
        "conf_cluster.toml:7: [[clusters]] client_users = (hidden): is not name:password"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        f'client_password = "{SECRET}',
        f"client_password = {SECRET}",
        f'client_users = ["bob:{SECRET}"',
        f'client_users = ["bob:{SECRET}", 1]',
        f'client_users = ["bob:{SECRET}\\U0000d800"]',
        f"redis_auth = {SECRET}",
        f'redis_auth = "{SECRET}',
        f'redis_auth "{SECRET}"',
        f'redis_auth = "{SECRET}"\nredis_auth = "{SECRET}"',
        f'redis_auth = "{SECRET}"\n[[clusters]]\n[clusters]',
        f'redis_auth = "{SECRET}\\q"',
        f'redis_auth = "\\u{SECRET}"',
        f'redis_auth = ["{SECRET}"]',
        f'redis_auth = {{ a = "{SECRET}" }}',
        f'redis_auth = {{ a = "{SECRET}"',
        f'redis_auth = "{SECRET}\\U0000d800"',
        f'redis_auth = "{SECRET}" # {SECRET}\nxyzzy = 1',
        f'redis_auth = "{SECRET}" name = "x"',
        f'redis_auth = {SECRET} name = "x"',
        f'redis_auth {SECRET} = ""',
        f'name = redis_auth = "{SECRET}"',
        f'redis_user = "x" redis_auth = "{SECRET}"',
    ],
)
def test_no_error_shows_the_password(files: Files, wrong: str) -> None:
    assert files.error(LEAST + wrong).startswith("conf_cluster.toml:")  # which looks for it


def test_the_line_of_one_server(files: Files) -> None:
    text = LEAST.replace('["n:1"]', '[\n  "n:1",\n  # "m:0" was\n  "o",\n  "p:1",\n]')
    assert files.error(text) == "conf_cluster.toml:7: [[clusters]] servers = 'o': not host:port"
    assert files.error(text.replace('"o"', '"o:0"')).startswith("conf_cluster.toml:7: ")


def test_the_line_in_a_later_cluster(files: Files) -> None:
    text = LEAST + LEAST.replace('"a"', '"b"').replace("6379", "x") + LEAST.replace('"a"', '"c"')
    assert files.error(text).startswith("conf_cluster.toml:7: [[clusters]] listen_addr = 'x': ")


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("6379", "6379", True),
        ("0.0.0.0:6379", "127.0.0.1:6379", True),
        ("127.0.0.1:6379", "6379", True),
        ("127.0.0.1:6379", "localhost:6379", True),
        ("[::]:6379", "127.0.0.1:6379", True),
        ("127.0.0.1:6379", "127.0.0.2:6379", False),
        ("127.0.0.1:6379", "127.0.0.1:6380", False),
        ("[::1]:6379", "127.0.0.1:6379", False),
    ],
)
def test_two_clusters_on_one_address(files: Files, first: str, second: str, clash: bool) -> None:
    text = LEAST.replace("6379", first) + LEAST.replace("6379", second).replace('"a"', '"b"')
    if clash:
        error = files.error(text)
        taken = Address.parse(second, default_host="0.0.0.0")
        assert error.startswith(
            f"conf_cluster.toml:7: [[clusters]] listen_addr = '{taken}': is taken by cluster 'a'"
        )
    else:
        assert len(files.load(text).clusters) == 2


def test_two_clusters_on_one_socket(files: Files) -> None:
    unix = LEAST.replace('"6379"', '"/run/s"\nlisten_proto = "unix"')
    error = files.error(unix + unix.replace('"a"', '"b"').replace("/run/s", "/run//x/../s"))
    assert error.startswith(
        "conf_cluster.toml:8: [[clusters]] listen_addr = '/run/s': is taken by cluster 'a'"
    )


def test_two_clusters_of_one_name(files: Files) -> None:
    error = files.error(LEAST + LEAST.replace("6379", "6380"))
    assert (
        error == "conf_cluster.toml:6: [[clusters]] name = 'a': is another cluster's name too; must be unique"
    )


@pytest.mark.parametrize("name", ["stat", "pprof"])
@pytest.mark.parametrize("address", ["6379", "127.0.0.1:6379"])
def test_a_cluster_on_the_http_address(files: Files, name: str, address: str) -> None:
    error = files.error(LEAST, f'{name} = "{address}"')
    assert error.startswith(
        f"conf_cluster.toml:3: [[clusters]] listen_addr = '0.0.0.0:6379': is taken by {name},"
    )
    files.load(LEAST, f'{name} = "6380"')
    assert f"is taken by {name}," in files.error(LEAST, "", proxy_flags={name: Address("::", 6379)})


def test_a_unix_path_that_is_too_long(files: Files) -> None:
    unix = LEAST.replace('"6379"', f'"/{"x" * 106}"\nlisten_proto = "unix"')
    assert files.load(unix)
    assert "is too long; a unix socket's path has at most 107 bytes" in files.error(
        unix.replace("xx", "xxx", 1)
    )
    assert "is too long" in files.error(unix.replace("xx", "éx", 1))


# --- files that can't be read --------------------------------------------------------------------


def test_files_that_can_not_be_read(files: Files, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^/nowhere/x\.toml: can't be read: No such file or directory$"):
        load("/nowhere/x.toml")
    with pytest.raises(ConfigError, match=r"^/nowhere/x\.toml: can't be read: No such file or directory$"):
        load(files.cluster, "/nowhere/x.toml")
    with pytest.raises(ConfigError, match=r"can't be read: Is a directory$"):
        load(tmp_path)
    with pytest.raises(ConfigError, match=r"can't be read: "):
        load("a\0b")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "a\nb\udcff")
    assert str(caught.value).isprintable()


def test_files_that_are_not_utf_8(files: Files) -> None:
    files.cluster.write_bytes(LEAST.encode() + b"# caf\xe9\n")
    assert files.error() == "conf_cluster.toml:5: is not UTF-8 text"
    files.cluster.write_bytes(LEAST.encode("utf-16"))
    assert files.error() == "conf_cluster.toml:1: is not UTF-8 text"


# --- whatever is in a file -----------------------------------------------------------------------


def config_or_error(cluster: bytes, proxy: bytes) -> None:
    with TemporaryDirectory() as directory:
        files = Files(Path(directory))
        files.cluster.write_bytes(cluster)
        files.conf.write_bytes(proxy)
        try:
            config = files.load()
        except ConfigError as error:
            problem = str(error)
        else:
            assert config.clusters
            assert all(cluster.servers for cluster in config.clusters)
            return
    assert problem.isprintable()
    assert len(problem) < 1500
    assert ": " in problem


TOMLISH = st.text(alphabet="[]{}=\"'\\#,.\n\t _-+:aeflnrstu0123456789xé\r\0\u2028", max_size=80)


@given(st.text(), st.text())
def test_any_text(cluster: str, proxy: str) -> None:
    config_or_error(cluster.encode("utf-8", "surrogatepass"), proxy.encode("utf-8", "surrogatepass"))


@given(st.binary(), st.binary())
def test_any_bytes(cluster: bytes, proxy: bytes) -> None:
    config_or_error(cluster, proxy)


@given(TOMLISH, TOMLISH)
def test_text_that_looks_like_toml(cluster: str, proxy: str) -> None:
    config_or_error((LEAST + cluster).encode(), proxy.encode())


@given(st.data())
def test_the_usual_files_damaged(data: st.DataObject) -> None:
    texts = []
    for text in (CLUSTER, PROXY):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(start + 30, len(text))))
        texts.append(text[:start] + data.draw(TOMLISH) + text[end:])
    config_or_error(texts[0].encode(), texts[1].encode())


def literal(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {literal(inner)}' for name, inner in value.items())} }}"
    return str(value) if isinstance(value, date | float) else json.dumps(value)


VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(), st.dates(), st.datetimes()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("ab", min_size=1), inner, max_size=2)
    ),
    max_leaves=5,
)


def lines(config: type[ProxyConfig | ClusterConfig], table: str) -> st.SearchStrategy[str]:
    """Keys of a table, and others, with values that may even be right."""
    names = [name for home, name, _ in keys(config) if home == table]
    right = [value for values in WRONG_KINDS.values() for value in values]
    values = st.one_of(VALUES.map(literal), st.sampled_from(right))
    pairs = st.dictionaries(st.one_of(st.sampled_from(names), st.text("az_", min_size=1)), values, max_size=6)
    return pairs.map(lambda given: "".join(f"{name} = {value}\n" for name, value in given.items()))


@given(
    st.lists(lines(ClusterConfig, "clusters"), max_size=3),
    lines(ProxyConfig, ""),
    lines(ProxyConfig, "proxy"),
)
def test_any_values_of_the_keys(clusters: list[str], top: str, proxy: str) -> None:
    config_or_error((LEAST + "[[clusters]]\n".join(clusters)).encode(), f"{top}[proxy]\n{proxy}".encode())
