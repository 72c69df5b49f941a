"""The Grafana dashboard, as far as it can be judged without Grafana."""

import json
import re
from pathlib import Path

from scripts.generate_dashboard import DASHBOARD, text
from tests.unit.test_prometheus_rules import promtool


def test_it_is_what_the_script_writes() -> None:
    assert DASHBOARD.read_text() == text(), "run: python -m scripts.generate_dashboard"


def test_prometheus_takes_its_queries(tmp_path: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(queries) > 30
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stderr


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_variables_are_those_that_queries_use() -> None:
    whole = DASHBOARD.read_text()
    known = {one["name"] for one in json.loads(whole)["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z_]+)", whole)) - {"__rate_interval", "__all"}
    assert used == known
