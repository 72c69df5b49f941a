"""What several of these tests begin with."""

from pathlib import Path

import pytest

from tests.unit.config_texts import Files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)
