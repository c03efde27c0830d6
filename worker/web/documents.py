"""Takes the app. Gives its OpenAPI document, and a page at /docs that needs no internet.

Knows nothing of any one route: what is true of all of them is said here, once.
"""

from importlib import resources
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from worker.web import problems, shapes

router = APIRouter(include_in_schema=False)

#: Swagger UI's files, as `fastapi-offline` carries them.
FILES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon.png": "image/png",
}
#: Problems that any route under /v1 may answer with.
ANY = (401, 403, 500, 503)
#: And any that has a body.
WITH_BODY = (400, 408, 413)
#: What bodies are, that routes read themselves; and lines of results.
BODIES: tuple[type[BaseModel], ...] = (shapes.NewJob, shapes.Upload, shapes.NewLabels, shapes.LabelStudioEvent)
LINES: tuple[type[BaseModel], ...] = (shapes.Outcome,)
REFERENCE = "#/components/schemas/{model}"

DESCRIPTION = """
Hand over images, get an answer per image, never lose one. Every request under /v1 shows a key of `imagemill keys add`
as `Authorization: Bearer KEY`. Every error is `application/problem+json`; `kind` is for programs, `detail` for people.
"""


@router.get("/docs")
def page() -> HTMLResponse:
    """Show the API, to be tried out."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="imagemill over HTTP",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
        swagger_ui_parameters={"persistAuthorization": False, "tryItOutEnabled": True},
    )


@router.get("/docs/{name}")
def file(name: str) -> Response:
    """Give a file of the page."""
    if name not in FILES:
        raise problems.RequestRefused(404, "not_found", problems.SENTENCES[404])
    data = resources.files("fastapi_offline").joinpath("static", name).read_bytes()
    return Response(data, media_type=FILES[name], headers={"Cache-Control": "max-age=86400"})


def describe(app: FastAPI) -> None:
    """Have the app's document say what its routes do not say each for itself."""
    app.description = DESCRIPTION
    usual = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(usual())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation has it done


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    _, given = models_json_schema([(one, "validation") for one in BODIES], ref_template=REFERENCE)
    _, told = models_json_schema([(one, "serialization") for one in LINES], ref_template=REFERENCE)
    schemas |= given["$defs"] | told["$defs"]
    schemas["Problem"] = TypeAdapter(problems.Problem).json_schema(ref_template=REFERENCE)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            statuses = (ANY if path.startswith("/v1") else (500, 503)) + (
                WITH_BODY if "requestBody" in operation else ()
            )
            _add_problems(operation["responses"], statuses)
    return document


def _add_problems(responses: dict[str, Any], statuses: tuple[int, ...]) -> None:
    for status, answer in problems.of(*statuses).items():
        responses.setdefault(str(status), answer)
    # FastAPI's own word for a refusal, which is a problem here.
    if "HTTPValidationError" in str(responses.get("422")):
        responses["422"] = problems.of(422)[422]
