"""docs/reference: its pages are what the code says today, and leave nothing out."""

import inspect
from dataclasses import fields
from typing import Any

from db import models
from docs.generate import errors, http, messages, pages, playbook, settings, tables
from worker import messages as wire
from worker.settings import Settings
from worker.tasks import intake


def test_the_reference_is_what_the_code_says_and_python_m_docs_generate_makes_it_so() -> None:
    assert pages.stale() == [], "run: python -m docs.generate"


def test_every_table_and_column_is_named() -> None:
    page = tables.page()
    for table in models.metadata.sorted_tables:
        section = page.partition(f"## {table.name}\n")[2].partition("\n## ")[0]
        assert [f"| `{column.name}` |" in section for column in table.columns] == [True] * len(table.columns)


def test_every_setting_is_named_and_no_default_depends_on_this_machine() -> None:
    page = settings.page()
    for item in fields(Settings):
        assert f"`IMAGEMILL_{item.name.upper()}`" in page
    assert "the cores, 8 at most" in page


def test_every_task_that_others_may_send_is_named_with_the_arguments_it_takes() -> None:
    assert {task.name for task in messages.TASKS} == wire.TASKS[wire.INTAKE_QUEUE]
    for function in (intake.status, intake.results, intake.cancel, intake.run_status):
        task = next(task for task in messages.TASKS if task.name == function.name)
        assert [name for name, _ in task.plain] == list(inspect.signature(function.run).parameters)


def test_every_example_of_a_message_is_one_that_is_accepted() -> None:
    for task in messages.TASKS:
        if task.asked is not None:
            parsed: Any = task.asked.parse(task.example)  # type: ignore[attr-defined]
            assert parsed.as_json() == task.example


def test_every_table_of_the_playbook_has_a_default_for_every_key() -> None:
    page = playbook.page()
    for name in playbook.TABLES:
        assert f"\n## {name}\n" in page
    assert "None" not in page


def test_a_failed_item_is_told_from_the_code_with_stage_kind_and_sentence() -> None:
    page = errors.page()
    assert "| decode | `truncated` | The image file is cut off before its end. |" in page
    assert "| `GateRefuses` | 3 |" in page
    assert "| `queue_full` |" in page


#: A document as a server gives it: parameters of a path and of an operation, a body, a value that names another.
DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {
        "/v1/jobs": {
            "post": {
                "summary": "Submit",
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}}},
                "responses": {
                    "429": {"description": "Later", "content": {"application/problem+json": {}}},
                    "202": {"description": "Accepted"},
                },
            }
        },
        "/v1/jobs/{job_id}": {
            "parameters": [{"name": "job_id", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": {
                "summary": "One job",
                "parameters": [{"name": "wait", "in": "query", "schema": {"anyOf": [{"type": "number"}]}}],
                "responses": {
                    "200": {
                        "description": "It",
                        "content": {
                            "application/json": {
                                "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Job"}}
                            }
                        },
                    }
                },
            },
        },
    },
    "components": {
        "schemas": {
            "Job": {
                "description": "Some items.\n\nMore of it.",
                "required": ["model"],
                "properties": {
                    "model": {"type": "string", "description": "which one"},
                    "priority": {"enum": ["bulk", "interactive"], "default": "bulk"},
                },
            }
        }
    },
}


def test_any_openapi_document_becomes_a_page_of_its_operations_and_values() -> None:
    page = http.described(DOCUMENT)
    assert "| [`POST /v1/jobs`](#post-v1jobs) | Submit |" in page
    assert "| 202 | Accepted |  |\n\nProblems: 429.\n" in page
    assert "### GET /v1/jobs/{job_id}\n" in page
    assert "| `job_id` | path | string, required |  |" in page
    assert "| `wait` | query | number |  |" in page
    assert "Body: [Job](#job) (`application/json`)." in page
    assert "| 200 | It | list of [Job](#job) (`application/json`) |" in page
    assert "### Job\n\nSome items.\n" in page
    assert "| `model` | string, required |  | which one |" in page
    assert "| `priority` | `bulk` or `interactive` | `bulk` |  |" in page
