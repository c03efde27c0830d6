"""Takes a job of the caller's. Gives its outcomes as lines of JSON, a page in memory at a time."""

import uuid
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from db import outcomes, session
from worker.messages import MAX_JOB_ITEMS
from worker.web import bodies, jobs, problems, shapes
from worker.web.callers import Owned, Reader
from worker.web.house import House

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

#: Outcomes read at a time, each time in a transaction of its own: a slow reader holds none open.
PAGE = 500

After = Annotated[int, Query(ge=-1, le=MAX_JOB_ITEMS, description="The `position` of the last line there is already")]
Limit = Annotated[int | None, Query(ge=1, le=MAX_JOB_ITEMS, description="Lines at most")]

_LINES = {
    "content": {bodies.JSONL: {"schema": {"type": "string"}}},
    "description": "An Outcome a line, in the order of the items",
    "headers": {"Job-Status": {"schema": {"type": "string"}, "description": "The job's status as the answer began"}},
}
_ANSWERS = {200: _LINES, **problems.of(404, 422)}


@router.get("/{job_id}/results", operation_id="read_results", response_class=StreamingResponse, responses=_ANSWERS)
async def results(
    job_id: uuid.UUID, house: Owned, caller: Reader, after: After = -1, limit: Limit = None
) -> StreamingResponse:
    """Give every outcome recorded so far, also of what failed; all of them once the job has ended.

    Outcomes of a job that runs may be recorded in any order: what stands behind the last line may not be all that is
    to come, so read again from the start, or wait for the end.
    """
    return await _lines(job_id, house, caller, after, limit, errors=None)


@router.get("/{job_id}/errors", operation_id="read_errors", response_class=StreamingResponse, responses=_ANSWERS)
async def failures(
    job_id: uuid.UUID, house: Owned, caller: Reader, after: After = -1, limit: Limit = None
) -> StreamingResponse:
    """Give the outcomes of what failed alone, as `results` gives all."""
    return await _lines(job_id, house, caller, after, limit, errors=True)


async def _lines(
    job_id: uuid.UUID, house: House, caller: Reader, after: int, limit: int | None, *, errors: bool | None
) -> StreamingResponse:
    job = await run_in_threadpool(jobs.read, house, caller, job_id)
    pages = _pages(house, job_id, after, MAX_JOB_ITEMS if limit is None else limit, errors)
    return StreamingResponse(pages, media_type=bodies.JSONL, headers={"Job-Status": job.state})


async def _pages(
    house: House, job_id: uuid.UUID, after: int, num_left: int, errors: bool | None
) -> AsyncIterator[bytes]:
    while num_left > 0:
        text, num, after = await run_in_threadpool(_page, house, job_id, after, min(num_left, PAGE), errors)
        if text:
            yield text
        if num < min(num_left, PAGE):
            return
        num_left -= num


def _page(house: House, job_id: uuid.UUID, after: int, limit: int, errors: bool | None) -> tuple[bytes, int, int]:
    """Give a page as text, how many lines it has, and the position of its last one."""
    with session.reading(house.sessions) as reading:
        rows = outcomes.page(reading, job_id, after=after, limit=limit, errors=errors)
    text = "".join(f"{shapes.Outcome.of(row).model_dump_json()}\n" for row in rows)
    return text.encode(), len(rows), rows[-1].position if rows else after
