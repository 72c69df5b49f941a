"""Builds a release for hosts: one archive of wheels, ours and its dependencies', that installs offline.

    python scripts/build_release.py --python 3.11 --machine x86_64

prints what it made as JSON. Wheels are for the hosts' Python and architecture, whatever the control machine
has: ours keeps to the limited API, so only the architecture matters; it is compiled here, or by Zig (PyPI's
``ziglang``) for another architecture than this machine's. Dependencies come ready-made, in the versions of
the constraints file. What is built once from the same sources is not built again.
"""

import argparse
import ast
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = (
    "setup.py",
    "proxy/*.py",
    "proxy/*/*.py",
    "proxy/*.py[xi]",
    "proxy/*.pxd",
    "proxy/*.json",
    "proxy/py.typed",
)
ABOUT = ("pyproject.toml", "README.md")
"""Needed to build too, but much of it has no effect on what is built."""
GLIBC = "2.28"
"""The oldest C library that hosts of another architecture may have: that of Debian 10."""
MANYLINUX = ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "linux")
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Other names of architectures."""


class BuildError(Exception):
    """A release that can't be built; ``str()`` says why, and what would help."""


EXTRA = "profile"
"""Of pyproject.toml's optional-dependencies: hosts have no internet to get it when it is needed."""
COUNTED = ("name", "requires-python", "dependencies", "scripts")
"""Of pyproject.toml's [project]."""


def sources(root: Path) -> list[Path]:
    """What is built, all of it."""
    return sorted(path for pattern in SOURCES for path in root.glob(pattern))


def version_of(root: Path) -> str:
    """``__version__`` of the sources. Raises BuildError."""
    module = root / "proxy" / "__init__.py"
    if not module.exists():
        raise BuildError(f"{root}: not this project's sources: {module} is missing")
    for statement in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__":
            return str(ast.literal_eval(statement.value))
    raise BuildError(f"{module}: no __version__")


def digest_of(root: Path, constraints: Path) -> str:
    """SHA-256 over all that has an effect on what is built."""
    digest = hashlib.sha256()
    file = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project = {key: value for key, value in file["project"].items() if key in COUNTED}
    project[EXTRA] = file["project"]["optional-dependencies"][EXTRA]
    for part in (file["build-system"], project, file["tool"]["setuptools"]):
        digest.update(json.dumps(part, sort_keys=True).encode())
    named = [(str(path.relative_to(root)), path) for path in sources(root)]
    for name, path in [*named, ("constraints", constraints)]:
        digest.update(f"{name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def run_pip(*arguments: str, environment: Mapping[str, str] | None = None) -> None:
    """Raises BuildError with what pip said."""
    result = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise BuildError(f"pip {arguments[0]} failed:\n{result.stdout}{result.stderr}".rstrip())


def cross_compiler(machine: str) -> dict[str, str]:
    """The environment in which setuptools compiles for another architecture. Raises BuildError."""
    zig = importlib.util.find_spec("ziglang")
    if zig is None or zig.origin is None:
        raise BuildError(
            f"hosts are {machine} and this machine is {platform.machine()}: "
            "to compile for them, install ziglang (pip install ziglang)"
        )
    compiler = f"{Path(zig.origin).parent / 'zig'} cc -target {machine}-linux-gnu.{GLIBC}"
    return {
        "CC": compiler,
        "LDSHARED": f"{compiler} -shared",
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
    }


def build_wheel(root: Path, machine: str, directory: Path) -> Path:
    """Compiles a copy of the sources: the tree itself stays as it is. Raises BuildError."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "source")
        for path in [*sources(root), *(root / name for name in ABOUT)]:
            target = copy / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        environment = {} if machine == platform.machine() else cross_compiler(machine)
        run_pip("wheel", "--no-deps", "--wheel-dir", str(directory), str(copy), environment=environment)
    (wheel,) = directory.glob("redis_proxy-*.whl")
    return wheel


def download_dependencies(wheel: Path, python: str, machine: str, constraints: Path, directory: Path) -> None:
    """What the wheel needs, and pip to install it with, beside it. Raises BuildError."""
    tag = python.replace(".", "")
    platforms = [word for name in MANYLINUX for word in ("--platform", f"{name}_{machine}")]
    abis = [word for abi in (f"cp{tag}", "abi3", "none") for word in ("--abi", abi)]
    run_pip(
        *("download", "--dest", str(directory), "--constraint", str(constraints)),
        *("--only-binary", ":all:", "--implementation", "cp", "--python-version", python),
        *(*platforms, *abis, f"{wheel}[{EXTRA}]", "pip"),
    )


def build(root: Path, python: str, machine: str, constraints: Path, output: Path) -> dict[str, str]:
    """The archive for hosts of one kind, made now or before. Raises BuildError."""
    version = version_of(root)
    digest = digest_of(root, constraints)
    name = f"redis-proxy-{version}-{digest[:12]}-cp{python.replace('.', '')}-{machine}"
    archive = output / f"{name}.tar"
    if not archive.exists():
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output) as scratch:
            directory = Path(scratch)
            wheel = build_wheel(root, machine, directory)
            download_dependencies(wheel, python, machine, constraints, directory)
            unfinished = directory / archive.name
            with tarfile.open(unfinished, "w") as tar:
                for path in sorted(directory.glob("*.whl")):
                    tar.add(path, path.name)
            unfinished.rename(archive)  # whole, or not there at all
    return {"version": version, "digest": digest, "archive": str(archive)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, default=ROOT, help="this project's sources (default: these)")
    parser.add_argument("--python", required=True, metavar="X.Y", help="the hosts' Python")
    parser.add_argument("--machine", required=True, help="the hosts' architecture, as uname -m tells it")
    parser.add_argument(
        "--constraints",
        type=Path,
        default=ROOT / "scripts" / "constraints.txt",
        help="pip constraints of the dependencies (default: scripts/constraints.txt)",
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "releases", help="default: build/releases"
    )
    options = parser.parse_args()
    try:
        made = build(
            options.source.resolve(),
            options.python,
            MACHINES.get(options.machine, options.machine),
            options.constraints,
            options.output,
        )
    except (BuildError, OSError) as error:
        print(f"build_release: {error}", file=sys.stderr)
        return 1
    print(json.dumps(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
