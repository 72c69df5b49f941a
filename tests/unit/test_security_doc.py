"""SECURITY.md tells the limits that are in force."""

import re
from pathlib import Path

import pytest

from proxy.config import ClusterConfig, ProxyConfig, keys

ROOT = Path(__file__).parent.parent.parent
LIMITS = re.findall(r"^\| `(\w+)`(?: of `\[proxy\]`)? \| (\d+)", (ROOT / "SECURITY.md").read_text(), re.M)


def test_there_are_limits() -> None:
    assert len(LIMITS) == 12


@pytest.mark.parametrize(("name", "default"), LIMITS)
def test_a_limits_default_is_the_one_in_force(name: str, default: str) -> None:
    declared = {name: key for config in (ClusterConfig, ProxyConfig) for _, name, key in keys(config)}
    assert declared[name].default == int(default)
