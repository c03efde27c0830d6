"""The dashboard, the alerts and the scrape configuration speak of measures that are there, with labels they have."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from worker import measures

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus/alerts.yml"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="no promtool here (Debian: prometheus); every expression was read above"
)
#: of Prometheus itself
FOREIGN = {"up": {"job", "instance"}}
#: labels that Prometheus adds to what it scrapes
ADDED = {"job", "instance", "le"}


def known() -> dict[str, set[str]]:
    """Every name that an expression may use, with its labels."""
    found = {one.name: set(one.labels) for one in measures.ALL if one.kind != "histogram"}
    for one in measures.ALL:
        if one.kind == "histogram":
            found |= {one.name + ending: set(one.labels) for ending in ("_bucket", "_sum", "_count")}
    return found | FOREIGN


def expressions() -> Iterator[tuple[str, str]]:
    for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"]
    board = json.loads((DEPLOY / "grafana/imagemill.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    yield "annotation", board["annotations"]["list"][0]["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_an_expression_names_what_is_told(where: str, expression: str) -> None:
    names = set(re.findall(r"\bimagemill_\w+|\bup\b", expression))
    assert names <= known().keys(), where
    assert names
    labels = set().union(*(known()[name] for name in names)) | ADDED
    for chosen in re.findall(r"\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)\s*[=!]", chosen)) <= labels, where
    for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
        assert set(re.findall(r"\w+", grouped)) <= labels, where
    assert expression.count("(") == expression.count(")")


def test_legends_and_summaries_name_labels_that_are_left() -> None:
    board = json.loads((DEPLOY / "grafana/imagemill.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            grouped = {name for part in re.findall(r"by \(([^)]*)\)", target["expr"]) for name in part.split(", ")}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= grouped, panel["title"]
    every = set().union(*known().values())
    assert set(re.findall(r"\$labels\.(\w+)", RULES.read_text())) <= every


def test_every_measure_is_on_the_dashboard_or_in_an_alert() -> None:
    used = set(re.findall(r"imagemill_\w+", " ".join(expression for _, expression in expressions())))
    unused = {one.name for one in measures.ALL if not any(name.startswith(one.name) for name in used)}
    assert unused == {
        "imagemill_worker_info", "imagemill_worker_heartbeat_age_seconds", "imagemill_ledger_read_seconds",
        "imagemill_shards_waiting", "imagemill_oldest_waiting_seconds", "imagemill_jobs_total",
    }  # fmt: skip


@needs_promtool
def test_promtool_accepts_rules_and_configuration(tmp_path: Path) -> None:
    for file in (RULES, DEPLOY / "prometheus/prometheus.yml"):
        shutil.copy(file, tmp_path)
    (tmp_path / "metrics_token").write_text("0123456789abcdef")
    for what in (("rules", RULES.name), ("config", "prometheus.yml")):
        ran = subprocess.run([PROMTOOL, "check", *what], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_promtool
def test_promtool_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"test:{number}", "expr": expression.replace("$__rate_interval", "1m").replace("$model", ".*")}
        for number, (_, expression) in enumerate(expressions())
    ]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    ran = subprocess.run([PROMTOOL, "check", "rules", file], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_promtool
def test_alerts_come_when_they_should_and_not_before(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path)
    waiting = 'imagemill_items_waiting{model="cats", priority="bulk"}'
    well = [
        {"series": f'imagemill_workers{{role="{role}", state="ready"}}', "values": "1x20"}
        for role in ("intake", "upkeep", "beat")
    ]
    tests = [
        {
            "interval": "1m",
            "input_series": [
                *well,
                {"series": waiting, "values": "5x20"},
                {"series": 'imagemill_serving_workers{model="cats"}', "values": "1x5 0x15"},
            ],
            "alert_rule_test": [
                {"eval_time": "5m", "alertname": "ImagemillNobodyServes"},
                {
                    "eval_time": "10m",
                    "alertname": "ImagemillNobodyServes",
                    "exp_alerts": [
                        {
                            "exp_labels": {"model": "cats", "severity": "critical"},
                            "exp_annotations": {
                                "summary": "Items of cats wait and no worker serves it.",
                                "description": "Start a classify worker with the model in IMAGEMILL_MODELS.",
                            },
                        }
                    ],
                },
                {"eval_time": "10m", "alertname": "ImagemillRoleMissing"},
            ],
        }
    ]
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": [RULES.name], "tests": tests}))
    ran = subprocess.run(
        [PROMTOOL, "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
