"""Writes the Grafana dashboard: python -m scripts.generate_dashboard"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parents[1] / "templates" / "grafana" / "redis-proxy.json"
WIDTH = 24
"""Of a row, in Grafana's units."""
HEIGHT = 8
PROCESS = '{job=~"$job",instance=~"$instance"}'
CLUSTER = '{job=~"$job",instance=~"$instance",cluster=~"$cluster"}'


@dataclass(frozen=True)
class Panel:
    title: str
    queries: Sequence[tuple[str, str]]
    """PromQL, and what a series is called."""
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    most: float | None = None


def _rate(metric: str, by: str = "", labels: str = CLUSTER) -> str:
    grouped = f"sum by ({by}) " if by else "sum "
    return f"{grouped}(rate({metric}{labels}[$__rate_interval]))"


def _quantile(quantile: float, metric: str, by: str = "") -> str:
    buckets = (
        f"sum by ({', '.join(filter(None, ('le', by)))}) (rate({metric}_bucket{CLUSTER}[$__rate_interval]))"
    )
    return f"histogram_quantile({quantile}, {buckets})"


REQUEST = "redis_proxy_request_duration_seconds"
SERVER = "redis_proxy_server_duration_seconds"
SECTIONS: dict[str, Sequence[Panel]] = {
    "At a glance": (
        Panel("Instances ready", [(f"sum(redis_proxy_ready{PROCESS})", "")], kind="stat", width=4),
        Panel("Requests", [(_rate("redis_proxy_requests_total"), "")], "reqps", "stat", 4),
        Panel("Error replies", [(_rate("redis_proxy_error_replies_total"), "")], "reqps", "stat", 4),
        Panel("p99", [(_quantile(0.99, REQUEST), "")], "s", "stat", 4),
        Panel("Clients", [(f"sum(redis_proxy_client_connections{CLUSTER})", "")], kind="stat", width=4),
        Panel(
            "Slots without a server",
            [(f"16384 - min(redis_proxy_topology_slots_covered{CLUSTER})", "")],
            kind="stat",
            width=4,
        ),
    ),
    "Requests": (
        Panel(
            "By command",
            [(f"topk(10, {_rate('redis_proxy_requests_total', 'command')})", "{{command}}")],
            "reqps",
        ),
        Panel(
            "Time to reply",
            [(_quantile(quantile, REQUEST), f"p{quantile * 100:g}") for quantile in (0.5, 0.99, 0.999)],
            "s",
        ),
        Panel("p99 by command", [(f"topk(10, {_quantile(0.99, REQUEST, 'command')})", "{{command}}")], "s"),
        Panel(
            "Error replies by code",
            [(_rate("redis_proxy_error_replies_total", "code") + " > 0", "{{code}}")],
            "reqps",
        ),
        Panel(
            "Ran out of time, or of unknown outcome",
            [
                (_rate("redis_proxy_timeouts_total"), "out of time"),
                (_rate("redis_proxy_unknown_outcomes_total"), "unknown outcome"),
                (_rate("redis_proxy_slow_requests_total"), "slow"),
            ],
            "reqps",
        ),
        Panel(
            "Parts of a split command",
            [
                (_quantile(quantile, "redis_proxy_fanout_width"), f"p{quantile * 100:g}")
                for quantile in (0.5, 0.99)
            ],
        ),
    ),
    "Servers": (
        Panel("p99 by server", [(_quantile(0.99, SERVER, "server"), "{{server}}")], "s"),
        Panel("Requests by server", [(_rate(f"{SERVER}_count", "server"), "{{server}}")], "reqps"),
        Panel(
            "Not answered yet",
            [
                (f"sum by (server) (redis_proxy_server_queued_requests{CLUSTER})", "{{server}}"),
                (f"sum(redis_proxy_parked_requests{CLUSTER})", "parked"),
            ],
        ),
        Panel("Ping", [(f"max by (server) (redis_proxy_server_ping_seconds{CLUSTER})", "{{server}}")], "s"),
        Panel(
            "Redirected and sent again",
            [
                (_rate("redis_proxy_moved_total"), "MOVED"),
                (_rate("redis_proxy_asked_total"), "ASK"),
                (_rate("redis_proxy_retried_total"), "sent again"),
            ],
            "reqps",
        ),
        Panel(
            "Connections lost and refused",
            [
                (_rate("redis_proxy_server_connections_lost_total", "server"), "{{server}} lost"),
                (_rate("redis_proxy_server_connections_refused_total", "server"), "{{server}} refused"),
            ],
        ),
        Panel(
            "Open connections", [(f"sum by (server) (redis_proxy_server_connections{CLUSTER})", "{{server}}")]
        ),
        Panel(
            "Age of the topology",
            [(f"max by (instance) (redis_proxy_topology_age_seconds{CLUSTER})", "{{instance}}")],
            "s",
        ),
        Panel(
            "Changes of the topology",
            [
                (
                    f"sum by (cluster) (increase(redis_proxy_topology_changes_total{CLUSTER}[5m]))",
                    "{{cluster}}",
                )
            ],
        ),
    ),
    "Clients": (
        Panel(
            "Connections by instance",
            [(f"sum by (instance) (redis_proxy_client_connections{CLUSTER})", "{{instance}}")],
        ),
        Panel(
            "Accepted and turned away",
            [
                (_rate("redis_proxy_connections_total", labels=PROCESS), "accepted"),
                (_rate("redis_proxy_connections_rejected_total", labels=PROCESS), "turned away"),
                (_rate("redis_proxy_evicted_total"), "closed for memory"),
                (_rate("redis_proxy_output_overflows_total"), "closed for unread replies"),
                (_rate("redis_proxy_protocol_errors_total"), "closed for errors of protocol"),
            ],
        ),
        Panel("Waiting in blocking commands", [(f"sum(redis_proxy_blocked_clients{CLUSTER})", "clients")]),
    ),
    "The process": (
        Panel(
            "What workers' time goes into",
            [(_rate("redis_proxy_worker_seconds_total", "state", PROCESS), "{{state}}")],
            "s",
            stacked=True,
        ),
        Panel(
            "Busiest workers",
            [
                (
                    "topk(10, 1 - sum by (instance, worker) (rate(redis_proxy_worker_seconds_total"
                    '{job=~"$job",instance=~"$instance",state="waiting"}[$__rate_interval])))',
                    "{{instance}} {{worker}}",
                )
            ],
            "percentunit",
            most=1,
        ),
        Panel(
            "CPU by instance",
            [(f"rate(process_cpu_seconds_total{PROCESS}[$__rate_interval])", "{{instance}}")],
            "percentunit",
        ),
        Panel(
            "Bytes",
            [
                (_rate("redis_proxy_received_bytes_total", "peer", PROCESS), "from {{peer}}s"),
                (_rate("redis_proxy_sent_bytes_total", "peer", PROCESS), "to {{peer}}s"),
            ],
            "Bps",
        ),
        Panel(
            "Memory",
            [
                (f"max(process_resident_memory_bytes{PROCESS})", "resident, the largest"),
                (f"max(redis_proxy_buffer_bytes{PROCESS})", "requests and replies, the largest"),
                (f"min(redis_proxy_buffer_limit_bytes{PROCESS})", "memory_limit"),
            ],
            "bytes",
        ),
        Panel("Started", [(f"changes(process_start_time_seconds{PROCESS}[1h])", "{{instance}}")]),
    ),
}


def dashboard() -> dict[str, Any]:
    """What Grafana imports. Source: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/"""
    panels: list[dict[str, Any]] = []
    x = y = 0
    for title, section in SECTIONS.items():
        panels.append({"type": "row", "title": title, "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y}})
        x, y = 0, y + 1
        height = 4 if section[0].kind == "stat" else HEIGHT
        for panel in section:
            if x + panel.width > WIDTH:
                x, y = 0, y + height
            panels.append(_panel(panel, {"h": height, "w": panel.width, "x": x, "y": y}))
            x += panel.width
        y += height
    for number, one in enumerate(panels, 1):
        one["id"] = number
    return {
        "title": "redis-proxy",
        "uid": "redis-proxy",
        "tags": ["redis", "redis-proxy"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
                *(_variable(name, metric) for name, metric in VARIABLES.items()),
            ]
        },
        "panels": panels,
    }


VARIABLES = {
    "job": "redis_proxy_ready",
    "cluster": 'redis_proxy_client_connections{job=~"$job"}',
    "instance": 'redis_proxy_ready{job=~"$job"}',
}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _variable(name: str, metric: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": f"label_values({metric}, {name})", "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.stacked else "none"}
        defaults["custom"] = {"fillOpacity": 30 if panel.stacked else 5, "stacking": stacking}
    return {
        "type": panel.kind,
        "title": panel.title,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {} if panel.kind == "stat" else {"tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend}
            for number, (expr, legend) in enumerate(panel.queries)
        ],
    }


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


def main() -> int:
    DASHBOARD.parent.mkdir(exist_ok=True)
    DASHBOARD.write_text(text())
    print(f"wrote {DASHBOARD}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
