"""Builds the compiled half of the package: every ``proxy/*.pyx``.

The extensions keep to CPython's limited API, so that one wheel serves every Python from 3.11 on: hosts of a
fleet may have another one than the machine that builds. What is hot does not touch Python objects, so this
costs nothing. A free-threaded Python has no limited API and gets a build of its own.

``PROXY_CFLAGS`` and ``PROXY_LDFLAGS`` are added to the compiler's and the linker's options: the
sanitizer builds use them.
"""

import os
import shlex
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, ExecError

HERE = Path(__file__).parent
LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")
OLDEST = (3, 11)
"""The first Python that can use the extensions, as ``requires-python`` says too."""


class Build(build_ext):
    """Says what is missing where the compiler would only say that it failed."""

    def build_extensions(self) -> None:
        self.parallel = self.parallel or os.cpu_count()
        header = Path(sysconfig.get_path("include"), "Python.h")
        if not header.exists():
            sys.exit(
                f"redis-proxy: {header} is missing: install the headers of this Python "
                "(Debian, Ubuntu: apt-get install python3-dev; Amazon Linux: dnf install python3-devel)"
            )
        try:
            super().build_extensions()
        except (CompileError, ExecError) as error:
            sys.exit(
                f"redis-proxy: {error}\n"
                "redis-proxy: the data plane is compiled and needs a working C compiler "
                "(Debian, Ubuntu: apt-get install gcc libc6-dev; Amazon Linux: dnf install gcc), "
                "or the compiler named by CC"
            )


def extension(source: Path) -> Extension:
    return Extension(
        f"proxy.{source.stem}",
        [str(source.relative_to(HERE))],
        extra_compile_args=[
            "-O3",
            "-fno-plt",
            "-Wno-sign-compare",
            *shlex.split(os.environ.get("PROXY_CFLAGS", "")),
        ],
        define_macros=[("Py_LIMITED_API", f"0x{OLDEST[0]:02X}{OLDEST[1]:02X}0000")] if LIMITED_API else [],
        py_limited_api=LIMITED_API,
        extra_link_args=shlex.split(os.environ.get("PROXY_LDFLAGS", "")),
    )


setup(
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": f"cp{OLDEST[0]}{OLDEST[1]}"}} if LIMITED_API else {},
    ext_modules=cythonize(
        [extension(source) for source in sorted(HERE.glob("proxy/*.pyx"))],
        nthreads=os.cpu_count() or 1,
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "freethreading_compatible": True,
        },
    ),
)
