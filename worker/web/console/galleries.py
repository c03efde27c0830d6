"""Takes a job, and what of it somebody wants to see. Gives its images as a gallery, and each of them with all that is
recorded of it.

Knows nothing of pixels: a page names the pictures, and the browser asks for them.
"""

import functools
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Path
from sqlalchemy.orm import Session, sessionmaker
from starlette.responses import Response

from db import galleries, jobs, session
from db.galleries import Choice, Only, Order, Place, Tally
from db.outcomes import Recorded
from worker.web.callers import Owned
from worker.web.console import rendering, routing
from worker.web.console.routing import By, Problem

router = APIRouter(prefix="/jobs", route_class=routing.Route)

#: tiles of a page, jobs of a page
NUM_TILES, NUM_JOBS = 60, 50
#: tallies that are remembered: each is a walk over a job's outcomes
MOST_TALLIES = 64
ONLY: Mapping[str, Only] = {"labels": "labels", "errors": "errors"}
ORDERS = {"position": "as submitted", "surest": "surest first", "doubtful": "least sure first"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the address of a gallery says."""

    label: str = ""
    #: labels, errors, or an error's stage
    show: str = ""
    #: scores, 0 to 1
    low: str = ""
    high: str = ""
    order: Order = "position"

    def choice(self) -> Choice:
        """Give what is to be read. Raises `Problem`."""
        return Choice(
            order=self.order,
            only=ONLY.get(self.show),
            label=self.label or None,
            error_stage=None if self.show in ("", *ONLY) else self.show,
            lowest=_score(self.low),
            highest=_score(self.high),
        )

    def query(self, **more: str) -> str:
        """Spell it again, with more."""
        usual = Asked()
        given = {name: getattr(self, name) for name in self.__slots__ if getattr(self, name) != getattr(usual, name)}
        return urlencode(given | more)


@router.get("")
def listed(house: Owned, visitor: By, before: uuid.UUID | None = None) -> Response:
    """List jobs, newest first."""
    with session.reading(house.sessions) as reading:
        newer = None if before is None else jobs.job(reading, before)
        found = jobs.jobs(reading, limit=NUM_JOBS + 1, before=newer)
    return rendering.page(
        "jobs.html", visitor, jobs=found[:NUM_JOBS], older=found[NUM_JOBS - 1].id if len(found) > NUM_JOBS else None,
        is_newest=before is None,
    )  # fmt: skip


@router.get("/{job_id}")
def gallery(
    house: Owned,
    visitor: By,
    job_id: uuid.UUID,
    label: str = "",
    show: str = "",
    low: str = "",
    high: str = "",
    order: Order = "position",
    after: str = "",
    before: str = "",
) -> Response:
    """Show a job's counts and a page of its images."""
    asked = Asked(label=label, show=show, low=low, high=high, order=order)
    choice = asked.choice()
    with session.reading(house.sessions) as reading:
        job = jobs.job(reading, job_id)
        page = galleries.page(
            reading, job_id, choice, limit=NUM_TILES, after=_place(after), before=_place(before)
        )  # fmt: skip
    if before and page.is_first:  # fewer than a page lie before it: show a whole one
        with session.reading(house.sessions) as reading:
            page = galleries.page(reading, job_id, choice, limit=NUM_TILES)
    where = rendering.link("jobs", job_id)
    return rendering.page(
        "job.html",
        visitor,
        job=job,
        page=page,
        asked=asked,
        orders=ORDERS,
        tally=_tally(house.sessions, job.id, job.num_succeeded, job.num_failed),
        previous=None if page.is_first or not page.shown else f"{where}?{asked.query(before=_spelled(page.shown[0]))}",
        following=None if page.is_last else f"{where}?{asked.query(after=_spelled(page.shown[-1]))}",
        plain=where,
    )


@router.get("/{job_id}/items/{position}")
def item(house: Owned, visitor: By, job_id: uuid.UUID, position: Annotated[int, Path(ge=0, le=2**31 - 1)]) -> Response:
    """Show one image with all that is recorded of it."""
    with session.reading(house.sessions) as reading:
        job = jobs.job(reading, job_id)
        found = galleries.one(reading, job_id, position)
    if found is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"Job {job_id} has no outcome for an item {position}.")
    return rendering.page("item.html", visitor, job=job, item=found)


@functools.lru_cache(MOST_TALLIES)
def _tally(sessions: sessionmaker[Session], job_id: uuid.UUID, *_nums: int) -> Tally:
    """Count a job's outcomes by kind, once for as long as their numbers do not change."""
    with session.reading(sessions) as reading:
        return galleries.tally(reading, job_id)


def _score(text: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise Problem(HTTPStatus.BAD_REQUEST, "A score lies between 0 and 1.")
    return value


def _spelled(one: Recorded) -> str:
    return str(one.position) if one.score is None else f"{one.position}:{one.score!r}"


def _place(text: str) -> Place | None:
    if not text:
        return None
    position, _, score = text.partition(":")
    if not position.isdecimal() or len(position) > 9:
        raise Problem(HTTPStatus.BAD_REQUEST, "There is no such page: begin at the first.")
    return Place(position=int(position), score=_score(score))
