"""The proxy role's variables and the configuration files' keys are the same."""

from typing import Any

import pytest
import yaml

from proxy.config import ClusterConfig, Key, ProxyConfig, keys
from scripts.build_release import ROOT

ROLE = ROOT / "roles" / "proxy"
TYPES = {bool: "bool", int: "int", str: "str"}


def load(path: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROLE / path).read_text(encoding="utf-8")))


def spec(key: Key) -> dict[str, Any]:
    """What the argument spec must say of a key."""
    wanted: dict[str, Any] = {"type": "list", "elements": TYPES[key.kind]} if key.many else {}
    wanted.setdefault("type", TYPES[key.kind])
    if key.note.startswith("must be given") or "; must be given" in key.note:
        wanted["required"] = True
    if key.secret:
        wanted["no_log"] = True
    if key.choices:
        wanted["choices"] = list(key.choices)
    wanted["description"] = f"{key.doc} ({key.unit})" if key.unit else key.doc
    return wanted


@pytest.mark.parametrize(
    ("variable", "config"), [("proxy_settings", ProxyConfig), ("proxy_clusters", ClusterConfig)]
)
def test_every_key_is_a_variable(variable: str, config: type[ProxyConfig | ClusterConfig]) -> None:
    options = load("meta/argument_specs.yml")["argument_specs"]["main"]["options"][variable]["options"]
    assert options == {name: spec(key) for _, name, key in keys(config)}


def test_the_template_knows_the_keys_at_the_top() -> None:
    top = [name for table, name, _ in keys(ProxyConfig) if not table]
    assert load("vars/main.yml")["proxy_top_settings"] == top


def test_the_defaults_are_keys() -> None:
    known = {name for _, name, _ in keys(ProxyConfig)}
    assert set(load("defaults/main.yml")["proxy_settings_default"]) <= known


def test_every_variable_is_described_and_has_a_default() -> None:
    specs = load("meta/argument_specs.yml")["argument_specs"]
    assert all(spec["options"] == specs["main"]["options"] for spec in specs.values())
    assert set(specs["main"]["options"]) == set(load("defaults/main.yml"))
