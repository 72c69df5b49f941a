"""Builds and runs the fuzz targets under AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/fuzz/run.py [--seconds N] [requests] [replies]

Needs clang with its runtime (Debian: clang, libclang-rt-14-dev). A finding is left in
tests/fuzz/build, and the exit status is not 0.
"""

import argparse
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE / "build"
SEEDS = {
    "requests": [
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
        b"PING\r\n*1\r\n$4\r\nPING\r\n",
        b"set \"a b\" 'c'\r\n*0\r\n*-1\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n",
    ],
    "replies": [
        b"+OK\r\n-ERR no\r\n:1\r\n$3\r\nfoo\r\n$-1\r\n*-1\r\n",
        b"*2\r\n*1\r\n$1\r\na\r\n%1\r\n+k\r\n~2\r\n#t\r\n_\r\n",
        b"|1\r\n+ttl\r\n:3\r\n$2\r\nhi\r\n>2\r\n+message\r\n,3.14\r\n=7\r\ntxt:abc\r\n(12345678901234567890\r\n",
    ],
}


def build(target: str) -> Path:
    """Compiles one target; raises CalledProcessError when the compiler fails."""
    BUILD.mkdir(exist_ok=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "cython",
            "-3",
            "-X",
            "boundscheck=False",
            "-X",
            "wraparound=False",
            "proxy/resp.pyx",
        ],
        cwd=HERE.parent.parent,
        check=True,
    )
    program = BUILD / f"fuzz_{target}"
    subprocess.run(
        [
            "clang",
            "-g",
            "-O1",
            "-w",
            "-fno-omit-frame-pointer",
            "-fsanitize=fuzzer,address,undefined",
            "-fno-sanitize-recover=undefined",
            "-fno-sanitize=function",
            f"-D{target.upper()}",
            f"-I{sysconfig.get_path('include')}",
            str(HERE / "fuzz_resp.c"),
            "-o",
            str(program),
            "-no-pie",
            "-Wl,-z,lazy,--unresolved-symbols=ignore-all",
        ],
        check=True,
    )
    return program


def run(target: str, seconds: int) -> subprocess.CompletedProcess[str]:
    """Fuzzes one target for so long; its report is on stderr."""
    program = build(target)
    corpus = BUILD / f"corpus_{target}"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(SEEDS[target]):
        (corpus / f"seed{number}").write_bytes(b"\x03\x02" + seed)
    return subprocess.run(
        [
            str(program),
            f"-max_total_time={seconds}",
            "-max_len=600",
            "-print_final_stats=1",
            f"-artifact_prefix={BUILD}/{target}-",
            str(corpus),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=600, help="for each target (default 600)")
    parser.add_argument("target", nargs="*", choices=[*SEEDS, []], help="default: both")
    options = parser.parse_args()
    failed = False
    for target in options.target or SEEDS:
        print(f"fuzzing {target} for {options.seconds} s", flush=True)
        result = run(target, options.seconds)
        print("\n".join(result.stderr.splitlines()[-12:]))
        failed |= result.returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
