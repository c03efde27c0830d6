"""Takes nothing. Gives the console as one router, and the files that its pages load.

Knows nothing of what any page shows.
"""

from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.responses import Response

from worker.web.console import entering, galleries, images, learning, models, now, rendering, review, routing

#: the files of pages, and what they are
KINDS = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
#: seconds a browser keeps a file whose address changes with it
KEPT_S = 30 * 86_400

router = APIRouter(include_in_schema=False, route_class=routing.Route)


@router.get(f"{rendering.ROOT}/static/{{name}}")
def static(name: str) -> Response:
    """Give a file that pages load."""
    kind = KINDS.get(name)
    if kind is None:
        return Response(status_code=HTTPStatus.NOT_FOUND)
    headers = {"Cache-Control": f"public, max-age={KEPT_S}, immutable", "X-Content-Type-Options": "nosniff"}
    return Response((rendering.HERE / "static" / name).read_bytes(), headers=headers, media_type=kind)


for part in (entering, now, galleries, images, review, models, learning):
    router.include_router(part.router, prefix=rendering.ROOT)


@router.get(f"{rendering.ROOT}/{{rest:path}}")
def missing(request: Request, rest: str) -> Response:  # noqa: ARG001 - whatever it is
    """Say that there is no such page."""
    return routing.problem(request, HTTPStatus.NOT_FOUND, "There is no such page in the console.")
