"""The recording and alert rules, by Prometheus's own tool."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "templates" / "prometheus" / "redis-proxy.rules.yml"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
OWN = 'job="redis-proxy",instance="a"'
CLUSTER = f'{OWN},cluster="c"'

Series = dict[str, str]
"""Values a minute, in promtool's notation, by series."""


def requests(failed: int = 0, slow: int = 0) -> Series:
    """10,000 requests a minute, of which so many fail or take long."""
    return {
        f'redis_proxy_requests_total{{{CLUSTER},command="get"}}': "0+10000x600",
        f'redis_proxy_request_duration_seconds_count{{{CLUSTER},command="get"}}': "0+10000x600",
        f'redis_proxy_request_duration_seconds_bucket{{{CLUSTER},command="get",le="0.01"}}': (
            f"0+{10000 - slow}x600"
        ),
        f'redis_proxy_error_replies_total{{{CLUSTER},code="CLUSTERDOWN"}}': f"0+{failed}x600",
        f'redis_proxy_error_replies_total{{{CLUSTER},code="WRONGTYPE"}}': "0+5000x600",
        f"redis_proxy_unknown_outcomes_total{{{CLUSTER}}}": "0x600",
        f"redis_proxy_timeouts_total{{{CLUSTER}}}": "0x600",
    }


def worker(waiting: int) -> Series:
    """A worker that waits so many seconds of a minute."""
    states = {"waiting": waiting, "transferring": 60 - waiting, "deciding": 0}
    name = f'redis_proxy_worker_seconds_total{{{OWN},worker="0"'
    return {f'{name},state="{state}"}}': f"0+{seconds}x60" for state, seconds in states.items()}


@dataclass
class Case:
    bad: Series
    """What raises the alert."""
    good: Series
    """What is near it and does not."""
    minutes: int = 20


CASES = {
    "RedisProxyDown": Case({f"up{{{OWN}}}": "0x20"}, {f"up{{{OWN}}}": "1x20"}),
    "RedisProxyNotReady": Case(
        {f"redis_proxy_ready{{{OWN}}}": "0x20"}, {f"redis_proxy_ready{{{OWN}}}": "1x20"}
    ),
    "RedisProxyFailuresBurnFast": Case(requests(failed=200), requests(failed=100), 120),
    "RedisProxyFailuresBurnSlowly": Case(requests(failed=100), requests(failed=30), 500),
    "RedisProxyLatencyBurnsFast": Case(requests(slow=200), requests(slow=100), 120),
    "RedisProxyLatencyBurnsSlowly": Case(requests(slow=100), requests(slow=30), 500),
    "RedisProxyTopologyStale": Case(
        {f"redis_proxy_topology_age_seconds{{{CLUSTER}}}": "100x20"},
        {f"redis_proxy_topology_age_seconds{{{CLUSTER}}}": "11x20"},
    ),
    "RedisProxySlotsUncovered": Case(
        {f"redis_proxy_topology_slots_covered{{{CLUSTER}}}": "16383x20"},
        {f"redis_proxy_topology_slots_covered{{{CLUSTER}}}": "16384x20"},
    ),
    "RedisProxyServerEjected": Case(
        {f'redis_proxy_server_ejected{{{CLUSTER},server="s"}}': "1x20"},
        {f'redis_proxy_server_ejected{{{CLUSTER},server="s"}}': "0x20"},
    ),
    "RedisProxyConnectionsNearLimit": Case(
        {
            f"redis_proxy_client_connections{{{CLUSTER}}}": "90x20",
            f"redis_proxy_max_connections{{{OWN}}}": "100x20",
        },
        {
            f"redis_proxy_client_connections{{{CLUSTER}}}": "90x20",
            f"redis_proxy_max_connections{{{OWN}}}": "0x20",
            f"process_open_fds{{{OWN}}}": "100x20",
            f"process_max_fds{{{OWN}}}": "1000x20",
        },
    ),
    "RedisProxyMemoryNearLimit": Case(
        {f"redis_proxy_buffer_bytes{{{OWN}}}": "90x20", f"redis_proxy_buffer_limit_bytes{{{OWN}}}": "100x20"},
        {f"redis_proxy_buffer_bytes{{{OWN}}}": "70x20", f"redis_proxy_buffer_limit_bytes{{{OWN}}}": "100x20"},
    ),
    "RedisProxyWorkerBusy": Case(worker(waiting=5), worker(waiting=15), 30),
    "RedisProxyRestarts": Case(
        {f"process_start_time_seconds{{{OWN}}}": "1+60x20"},
        {f"process_start_time_seconds{{{OWN}}}": "1x10 2x10"},
    ),
    "RedisProxyReloadRefused": Case(
        {f"redis_proxy_config_last_reload_successful{{{OWN}}}": "0x20"},
        {f"redis_proxy_config_last_reload_successful{{{OWN}}}": "1x20"},
    ),
}


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, check=False)


def fired(series: Series, minutes: int, alert: str, directory: Path) -> bool:
    """Whether Prometheus raises an alert for these values."""
    test: dict[str, Any] = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": one, "values": values} for one, values in series.items()],
                "alert_rule_test": [{"eval_time": f"{minutes}m", "alertname": alert, "exp_alerts": []}],
            }
        ],
    }
    file = directory / "test.yml"
    file.write_text(json.dumps(test))
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    if done.returncode and f"alertname: {alert}" not in done.stderr:
        raise AssertionError(done.stderr)
    return done.returncode != 0


def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_raised_when_it_should_be(alert: str, tmp_path: Path) -> None:
    case = CASES[alert]
    assert fired(case.bad, case.minutes, alert, tmp_path)
    assert not fired(case.good, case.minutes, alert, tmp_path)


def test_every_alert_has_a_runbook() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    sections = {line.removeprefix("### ") for line in text.splitlines() if line.startswith("### RedisProxy")}
    assert sections == set(ALERTS)
