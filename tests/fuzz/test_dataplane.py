"""A short run of the data plane's fuzz driver; `make fuzz` runs it for longer, under AddressSanitizer."""

import subprocess
import sys


def test_the_data_plane_stands_spoilt_dialogues_from_both_sides() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.dataplane", "--seconds", "10", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    assert "rounds from seed 1 on, 0 failed" in result.stdout
