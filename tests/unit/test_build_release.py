"""What a release is made of, and what is said when it can't be made. The fleet's tests build real ones."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import __version__
from scripts.build_release import ABOUT, ROOT, build_wheel, digest_of, sources, version_of

SCRIPT = ROOT / "scripts" / "build_release.py"
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources."""
    copy = tmp_path / "tree"
    for path in [*sources(ROOT), *(ROOT / name for name in ABOUT)]:
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return copy


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )


def test_the_version_is_the_packages() -> None:
    assert version_of(ROOT) == __version__


def test_what_changes_a_release_and_what_does_not(tree: Path) -> None:
    before = digest_of(tree, CONSTRAINTS)
    assert before == digest_of(ROOT, CONSTRAINTS), "wherever the sources are"
    (tree / "README.md").write_text("other words")
    pyproject = tree / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("line-length = 110", "line-length = 100"))
    (tree / "proxy" / "left_over.so").write_bytes(b"built in place")
    assert digest_of(tree, CONSTRAINTS) == before
    pyproject.write_text(pyproject.read_text().replace('"hiredis>=3.2"', '"hiredis>=3.3"'))
    after = digest_of(tree, CONSTRAINTS)
    assert after != before
    pyproject.write_text(pyproject.read_text().replace('"py-spy>=0.4"', '"py-spy>=0.5"'))
    assert digest_of(tree, CONSTRAINTS) not in (before, after), "hosts get it too"
    (tree / "proxy" / "slots.pyx").write_text("# other code")
    assert digest_of(tree, CONSTRAINTS) not in (before, after)


def test_constraints_are_part_of_it(tmp_path: Path) -> None:
    other = tmp_path / CONSTRAINTS.name
    other.write_text(CONSTRAINTS.read_text() + "# and more\n")
    assert digest_of(ROOT, other) != digest_of(ROOT, CONSTRAINTS)


def test_a_build_leaves_the_sources_alone(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXY_CFLAGS", "-O0")
    before = sorted(tree.rglob("*"))
    wheel = build_wheel(tree, platform.machine(), tmp_path)
    assert wheel.name == f"redis_proxy-{__version__}-cp311-abi3-linux_{platform.machine()}.whl"
    assert sorted(tree.rglob("*")) == before


def test_not_our_sources(tmp_path: Path) -> None:
    result = run("--source", str(tmp_path), "--python", "3.11", "--machine", "x86_64")
    assert result.returncode == 1
    assert f"{tmp_path}: not this project's sources" in result.stderr


def test_another_architecture_needs_zig(tree: Path, tmp_path: Path) -> None:
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    arguments = ["--source", str(tree), "--output", str(tmp_path), "--python", "3.11", "--machine", other]
    result = run(*arguments)
    assert result.returncode == 1
    assert f"hosts are {other} and this machine is {platform.machine()}" in result.stderr
    assert "pip install ziglang" in result.stderr
    assert not list(tmp_path.glob("*.tar"))


def test_what_pip_says_is_said(tree: Path, tmp_path: Path) -> None:
    (tree / "setup.py").write_text("raise SystemExit('broken on purpose')")
    result = run(
        *("--source", str(tree), "--output", str(tmp_path / "out")),
        *("--python", "3.11", "--machine", platform.machine()),
    )
    assert result.returncode == 1
    assert "pip wheel failed" in result.stderr
    assert "broken on purpose" in result.stderr
    assert not list(tmp_path.glob("out/*.tar"))
