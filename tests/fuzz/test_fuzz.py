"""A short run of each fuzz target; `make fuzz` runs them for longer."""

import shutil

import pytest

from tests.fuzz.run import SEEDS, run


@pytest.mark.skipif(shutil.which("clang") is None, reason="the fuzz targets need clang and its runtime")
@pytest.mark.parametrize("target", SEEDS)
def test_the_scanners_stand_any_bytes(target: str) -> None:
    result = run(target, seconds=10)
    assert result.returncode == 0, result.stderr[-5000:]
    assert "stat::number_of_executed_units" in result.stderr
