"""The house's one rule, held: who may import whom, and what light processes never load."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: what a light process has no business loading, and what takes seconds to load
HEAVY = ("torch", "torchvision", "timm", "PIL", "numpy")
SQL = ("sqlalchemy", "alembic", "psycopg", "db")
#: module -> what it must not load
LIGHT = {
    "worker.messages": (*HEAVY, *SQL, "pipeline", "celery", "kombu", "redis"),
    "worker.learning_messages": (*HEAVY, *SQL, "pipeline", "celery", "kombu", "redis"),
    "worker.label_files": (*HEAVY, *SQL, "pipeline", "celery", "kombu", "redis"),
    "worker.manifests": (*HEAVY, *SQL, "pipeline", "celery", "kombu", "redis"),
    "worker.settings": (*HEAVY, *SQL, "pipeline", "celery", "kombu", "redis"),
    "worker.client": (*HEAVY, *SQL, "pipeline"),
    "worker.webhook": (*HEAVY, *SQL, "pipeline"),
    "worker.app": (*HEAVY, *SQL, "pipeline"),
    "worker.schedule": (*HEAVY, *SQL, "pipeline"),
    "worker.stack": (*HEAVY, *SQL, "pipeline"),
    "worker.cli.commands": (*HEAVY, "sqlalchemy", "alembic", "psycopg"),
    **{f"worker.tasks.{file.stem}": HEAVY for file in (ROOT / "worker/tasks").glob("[!_]*.py")},
}


def test_every_import_contract_is_kept() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    ran = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_loads_nothing_heavy(module: str) -> None:
    forbidden = LIGHT[module]
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {set(forbidden)!r}))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


@pytest.mark.parametrize("package", ["worker", "pipeline", "db"])
def test_a_package_opens_with_a_docstring_and_nothing_else(package: str) -> None:
    for file in (ROOT / package).rglob("__init__.py"):
        lines = file.read_text().strip()
        assert lines.startswith('"""'), file
        assert lines.endswith('"""'), file
        assert lines.count('"""') == 2, file
