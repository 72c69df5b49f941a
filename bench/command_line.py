"""What commands have in common that run long and give figures: the benchmarks', and the chaos run's."""

import argparse
import json
import sys
import time
from collections.abc import Collection
from pathlib import Path


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Of ``python -m module``; ``description`` is shown as it is. It has --json already."""
    made = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--json", type=Path, help="also write every figure here")
    return made


def among(made: argparse.ArgumentParser, kind: str, known: Collection[str], words: str) -> list[str]:
    """The words of a list with commas; ends the program when one is not known."""
    found = words.split(",")
    if unknown := [word for word in found if word not in known]:
        made.error(f"no {kind} {unknown[0]}; there are {', '.join(known)}")
    return found


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def write(results: object, path: Path | None) -> None:
    """As JSON, if it is wanted."""
    if path:
        path.write_text(json.dumps(results, indent=1) + "\n")
