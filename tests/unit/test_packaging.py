"""What `pip install .` makes, and what it says when it can't."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources without anything built."""
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(
        ROOT / "proxy", copy / "proxy", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    )
    return copy


def test_a_wheel_holds_all_that_a_host_needs(tree: Path, tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            str(tmp_path),
            str(tree),
        ],
        check=True,
        env={**os.environ, "PROXY_CFLAGS": "-O0"},
        timeout=300,
    )
    (wheel,) = tmp_path.glob("redis_proxy-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        assert "proxy/commands.json" in archive.namelist()
        archive.extractall(site)
    # Unpacked where this tree is out of sight, with only its dependencies beside it.
    result = subprocess.run(
        [sys.executable, "-c", "import proxy.dataplane, proxy.server; print(proxy.server.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith(str(site))
    entry = next(site.glob("*.dist-info/entry_points.txt")).read_text()
    assert "redis-proxy = proxy.__main__:main" in entry


def build(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_missing_compiler_is_said(tree: Path) -> None:
    result = build(tree, CC="no-such-compiler")
    assert result.returncode != 0
    assert "needs a working C compiler" in result.stderr.strip().splitlines()[-1]


def test_missing_headers_are_said(tree: Path) -> None:
    setup = tree / "setup.py"
    setup.write_text(setup.read_text().replace('"Python.h")', '"NoPython.h")'))
    result = build(tree)
    assert result.returncode != 0
    assert "install the headers of this Python (Debian, Ubuntu: apt-get install python3-dev" in result.stderr
