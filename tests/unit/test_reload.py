"""What a changed configuration asks for."""

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.cli import main
from proxy.config import ClusterConfig, Config
from proxy.config_files import load
from proxy.reload import Changes, compare, reloaded

PROXY = """\
stat = "127.0.0.1:2110"
[proxy]
threads = 2
max_connections = 10
"""
CLUSTER = """\
[[clusters]]
name = "one"
listen_addr = "0.0.0.0:6379"
redis_auth = "before"
servers = ["10.0.0.1:6379"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "conf_proxy.toml").write_text(PROXY)
    (tmp_path / "conf_cluster.toml").write_text(CLUSTER)
    return load(tmp_path / "conf_cluster.toml", tmp_path / "conf_proxy.toml")


def with_cluster(config: Config, **values: object) -> Config:
    (cluster,) = config.clusters
    return replace(config, clusters=(replace(cluster, **values),))  # type: ignore[arg-type]


def with_proxy(config: Config, **values: object) -> Config:
    return replace(config, proxy=replace(config.proxy, **values))  # type: ignore[arg-type]


def test_nothing_changes(config: Config) -> None:
    assert compare(config, config) == Changes()
    assert str(compare(config, config)) == "nothing changes"


def test_what_a_reload_applies_and_what_needs_a_restart(config: Config) -> None:
    new = with_cluster(with_proxy(config, threads=4, max_connections=20), redis_auth="after")
    changes = compare(config, new)
    assert changes == Changes(("[proxy] max_connections", "cluster one redis_auth"), ("[proxy] threads",))
    assert str(changes) == (
        "restart needed for [proxy] threads; a reload applies [proxy] max_connections, cluster one redis_auth"
    )
    running = reloaded(config, new)
    assert (running.proxy.threads, running.proxy.max_connections) == (2, 20)
    assert running.clusters[0].redis_auth == "after"
    assert compare(running, new) == Changes((), ("[proxy] threads",)), "it goes on needing a restart"


def test_clusters_that_come_and_go_need_a_restart(config: Config) -> None:
    (cluster,) = config.clusters
    other = ClusterConfig(name="two", listen_addr=cluster.listen_addr, servers=cluster.servers)
    both = replace(config, clusters=(cluster, other))
    assert compare(config, both).restart == ("cluster two (added)",)
    assert compare(both, config).restart == ("cluster two (removed)",)
    assert reloaded(both, config) == both


@pytest.fixture
def directories(tmp_path: Path, config: Config) -> tuple[Path, Path]:
    """Where the files are, and a copy of them."""
    copy = tmp_path / "new"
    copy.mkdir()
    for name in ("conf_proxy.toml", "conf_cluster.toml"):
        (copy / name).write_text((tmp_path / name).read_text())
    return tmp_path, copy


def check_against(old: Path, new: Path) -> int:
    return main(
        [
            "--check",
            *("-cluster", str(new / "conf_cluster.toml")),
            *("-conf", str(new / "conf_proxy.toml")),
            *("-against", str(old)),
        ]
    )


def test_check_against_says_which(directories: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    old, new = directories
    assert check_against(old, new) == 0
    assert capsys.readouterr().out.endswith(f"against {old}: nothing changes\n")
    (new / "conf_cluster.toml").write_text(CLUSTER.replace("before", "after"))
    assert check_against(old, new) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"against {old}: reload applies cluster one redis_auth\n")
    assert "after" not in out
    (new / "conf_proxy.toml").write_text(PROXY.replace("= 2\n", "= 3\n"))
    assert check_against(old, new) == 0
    assert f"against {old}: restart needed for [proxy] threads; a reload" in capsys.readouterr().out


def test_check_against_files_that_no_longer_do(
    directories: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = directories
    (old / "conf_proxy.toml").write_text("nonsense = 1\n")
    assert check_against(old, new) == 0
    assert "restart needed, for what is there can't be used" in capsys.readouterr().out


def test_against_alone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-cluster", "templates/examples/conf_cluster.toml", "-against", "."]) == 2
    assert "-against goes with --check" in capsys.readouterr().err
