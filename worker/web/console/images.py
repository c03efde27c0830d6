"""Takes an item of a job, or a proposal. Gives its picture.

Knows nothing of references that are not recorded: what the ledger does not name is shown to nobody.
"""

import uuid
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from db import galleries, proposals, session
from worker.web.callers import Owned
from worker.web.console import pictures, routing
from worker.web.console.pictures import SIDES, Picture
from worker.web.console.routing import By

router = APIRouter(prefix="/images", route_class=routing.Route)

#: whatever it is, it is no page: nothing in it runs or loads
POLICY = "default-src 'none'; sandbox"
#: seconds a browser may keep a picture without asking again
KEPT_S = 300
NOWHERE = "Nothing is recorded under this address."

Size = Literal["tile", "large"]
#: numbers as both databases hold them
Position = Annotated[int, Path(ge=0, le=2**31 - 1)]
ProposalId = Annotated[int, Path(ge=1, le=2**63 - 1)]


@router.get("/jobs/{job_id}/{position}")
async def of_item(
    request: Request, house: Owned, _: By, job_id: uuid.UUID, position: Position, size: Size = "tile"
) -> Response:
    """Show the image of an item that has an outcome."""

    def find() -> str | None:
        with session.reading(house.sessions) as reading:
            found = galleries.one(reading, job_id, position)
        return None if found is None else found.reference

    return _answer(await pictures.of(request).show(find, SIDES[size]))


@router.get("/proposals/{proposal_id}")
async def of_proposal(request: Request, house: Owned, _: By, proposal_id: ProposalId, size: Size = "tile") -> Response:
    """Show the image of a proposal."""

    def find() -> str | None:
        with session.reading(house.sessions) as reading:
            found = proposals.by_id(reading, proposal_id)
        return None if found is None else found.reference

    return _answer(await pictures.of(request).show(find, SIDES[size]))


def _answer(picture: Picture | None) -> Response:
    shown = picture or pictures.drawn(NOWHERE)
    # A browser shows what comes with these statuses all the same, and says in its tools that it is no image.
    status = HTTPStatus.OK if shown.is_image else HTTPStatus.UNPROCESSABLE_ENTITY
    headers = {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": f"private, max-age={KEPT_S}" if shown.is_image else "no-store",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    return Response(
        shown.body, status if picture else HTTPStatus.NOT_FOUND, headers=headers, media_type=shown.kind
    )  # fmt: skip
