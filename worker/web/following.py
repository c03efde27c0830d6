"""Takes a job of the caller's. Gives its progress as server-sent events, until it has ended or the caller goes away."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from db.jobs import JobView
from worker.messages import FINAL_STATES
from worker.web import jobs, problems, shapes
from worker.web.callers import Owned, Reader
from worker.web.house import House

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

#: Seconds of silence after which a comment shows that the stream lives: proxies end what is silent for a minute.
SILENCE_S = 15.0
#: Seconds between two events at least.
APART_S = 0.2
MEDIA_TYPE = "text/event-stream"

_STREAM = {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}, "description": "`progress` events, then `end`"}


@router.get(
    "/{job_id}/events",
    operation_id="follow_job",
    response_class=StreamingResponse,
    responses={200: _STREAM, **problems.of(404, 422, 429)},
)
async def events(job_id: uuid.UUID, house: Owned, caller: Reader) -> StreamingResponse:
    """Follow a job: an event `progress` with the job at first and at each change, and `end` with it at the last."""
    job = await run_in_threadpool(jobs.read, house, caller, job_id)
    house.waits.refuse_if_full(caller.name)
    # Nothing between us and the caller is to keep events back.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(house, caller.name, job), media_type=MEDIA_TYPE, headers=headers)


async def _stream(house: House, caller: str, job: JobView) -> AsyncIterator[str]:
    with house.waits.taking(caller), house.watch.following(job.id) as newest:
        yield _event(job)
        while job.state not in FINAL_STATES:
            try:
                job = await asyncio.wait_for(newest.get(), SILENCE_S)
            except TimeoutError:
                yield ": still here\n\n"
                continue
            yield _event(job)
            await asyncio.sleep(APART_S)


def _event(job: JobView) -> str:
    name = "end" if job.state in FINAL_STATES else "progress"
    return f"event: {name}\ndata: {json.dumps(shapes.Job.of(job).model_dump())}\n\n"
