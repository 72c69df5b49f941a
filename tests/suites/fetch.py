"""Other people's test suites, fetched to be run: nothing of theirs is kept in this repository."""

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(__file__).parents[2] / "build" / "suites"
"""Where they are unpacked, each in a directory named after it and its version; git ignores it."""

REDIS = "7.0.15"
"""The version whose tests the deny list is about: that of Debian 12 and Ubuntu 24.04."""
REDIS_PY = "8.1.0"
NEEDED_BY_REDIS_PY = ["numpy", "packaging", "pytest", "pytest-asyncio", "pytest-timeout"]


class UnavailableError(RuntimeError):
    """A suite can't be had on this machine; says why."""


def redis() -> Path:
    """The source tree of redis-server, as this machine's distribution has it; apt verifies what comes."""
    with _fetched(f"redis-{REDIS}") as directory:
        if directory is not None:
            _apt_source("redis", directory)
            _unpack(directory, f"redis_{REDIS}.orig.tar.gz")
    return CACHE / f"redis-{REDIS}"


def redis_py() -> Path:
    """The source tree of redis-py from PyPI, with what its tests need in ``packages``."""
    with _fetched(f"redis-py-{REDIS_PY}") as directory:
        if directory is not None:
            _pip(
                "download",
                "--no-deps",
                "--no-binary",
                "redis",
                f"redis=={REDIS_PY}",
                "--dest",
                str(directory),
            )
            _unpack(directory, f"redis-{REDIS_PY}.tar.gz")
            _pip("install", "--target", str(directory / "packages"), *NEEDED_BY_REDIS_PY)
    return CACHE / f"redis-py-{REDIS_PY}"


@contextmanager
def _fetched(name: str) -> Iterator[Path | None]:
    """A new directory that becomes the suite's once it is whole; None when there is one already."""
    if (CACHE / name).exists():
        yield None
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f".{name}-") as directory:
        whole = Path(directory) / "whole"
        whole.mkdir()
        yield whole
        whole.rename(CACHE / name)


def _unpack(directory: Path, name: str) -> None:
    """Puts what the archive's only directory holds into ``directory``."""
    archive = directory / name
    if not archive.exists():
        there = ", ".join(sorted(file.name for file in directory.iterdir()))
        raise UnavailableError(f"{name} is wanted, this machine's sources have: {there}")
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            member.name = member.name.partition("/")[2]
            if member.name:
                tar.extract(member, directory, filter="data")


def _apt_source(package: str, directory: Path) -> None:
    """Downloads a source package, whether or not this machine's apt has been told to know of sources."""
    if shutil.which("apt-get") is None:
        raise UnavailableError(f"apt-get source {package}: this is neither Debian nor Ubuntu")
    with tempfile.TemporaryDirectory(prefix="apt-sources-") as name:
        apt = Path(name)
        (apt / "parts").mkdir()
        (apt / "lists").mkdir()
        listed = Path("/etc/apt")
        for file in (*listed.glob("sources.list"), *listed.glob("sources.list.d/*.*")):
            text = re.sub(r"^Types:.*$", "Types: deb-src", file.read_text(), flags=re.MULTILINE)
            (apt / "parts" / file.name).write_text(re.sub(r"^deb ", "deb-src ", text, flags=re.MULTILINE))
        options = {
            "APT::Sandbox::User": "root",  # the directories are ours
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": apt / "parts",
            "Dir::State::Lists": apt / "lists",
            "Dir::Cache::SrcPkgCache": "",
            "Dir::Cache::PkgCache": "",
        }
        words = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
        update = subprocess.run([*words, "update"], capture_output=True, text=True, check=False)
        source = subprocess.run(
            [*words, "source", "--download-only", package],
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
    if source.returncode != 0:
        raise UnavailableError(f"apt-get source {package}: {update.stderr}{source.stderr}")


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnavailableError(f"pip {' '.join(words)}: {done.stderr}")
