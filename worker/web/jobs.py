"""Takes images of a caller. Gives jobs: submitted, listed, shown, waited for, cancelled and tried again."""

import asyncio
import uuid
from dataclasses import replace
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from db import errors, jobs, session
from db.jobs import JobView
from worker import intake, manifests, sizing
from worker.messages import FINAL_STATES
from worker.web import bodies, problems, shapes, submissions
from worker.web.callers import Caller, Owned, Reader, Submitter
from worker.web.house import House
from worker.web.submissions import Order, Placed

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

#: Seconds that one request may wait for a job.
MAX_WAIT_S = 60.0
#: Jobs in one page.
MAX_JOBS = 100

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            bodies.JSON: {"schema": {"$ref": "#/components/schemas/NewJob"}},
            bodies.FORM: {"schema": {"$ref": "#/components/schemas/Upload"}},
            bodies.JSONL: {"schema": {"type": "string", "description": "One item per line"}},
        },
    }
}


#: What can be asked of a job that was accepted.
_LINKS = {
    name: {"operationId": name, "parameters": {"job_id": "$response.body#/id"}}
    for name in ("show_job", "cancel_job", "retry_job", "follow_job", "read_results", "read_errors")
}


@router.post(
    "",
    operation_id="submit_job",
    status_code=202,
    openapi_extra=_BODY,
    responses={202: {"links": _LINKS}, **problems.of(404, 415, 422, 429)},
)
async def submit(
    request: Request,
    response: Response,
    house: Owned,
    caller: Submitter,
    wish: Annotated[shapes.WishInText, Query(description="For a body that cannot say so itself")],
    idempotency_key: submissions.Key = None,
) -> shapes.Job:
    """Hand over images as one job: as JSON, as a JSONL manifest, or as a form of image files.

    The answer comes once the ledger has it all; nothing of a body that is cut off is ever classified.
    """
    key = submissions.read_key(idempotency_key)
    span = submissions.read_span(request.headers.get("traceparent"))
    order = Order(caller=caller.name, wish=wish, idempotency_key=key, traceparent=span)
    kind = bodies.kind(request, bodies.JSON, bodies.JSONL, bodies.FORM)
    placed = await {bodies.JSON: _from_json, bodies.JSONL: _from_lines, bodies.FORM: _from_form}[kind](
        request, house, order
    )
    response.headers["Location"] = f"/v1/jobs/{placed.job.id}"
    if placed.is_repeated:
        response.headers["Idempotency-Replayed"] = "true"
    return shapes.Job.of(placed.job)


@router.get("", operation_id="list_jobs", responses=problems.of(404, 422))
def listed(
    house: Owned,
    caller: Reader,
    status: shapes.Status | None = None,
    after: Annotated[uuid.UUID | None, Query(description="The last job of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_JOBS)] = 20,
) -> shapes.Page[shapes.Job]:
    """List the caller's jobs, newest first; with the scope `operate`, everybody's."""
    of = None if caller.may("operate") else caller.name
    with session.reading(house.sessions) as reading:
        before = None if after is None else visible(reading, caller, after)
        found = jobs.jobs(reading, limit=limit + 1, state=status, caller=of, before=before)
    return shapes.Page(data=[shapes.Job.of(one) for one in found[:limit]], has_more=len(found) > limit)


@router.get("/{job_id}", operation_id="show_job", responses=problems.of(404, 422, 429))
async def shown(
    job_id: uuid.UUID,
    house: Owned,
    caller: Reader,
    wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for its end at most")] = 0.0,
) -> shapes.Job:
    """Show a job; with `wait_s`, once it has ended or the time is over."""
    job = await run_in_threadpool(read, house, caller, job_id)
    if wait_s and job.state not in FINAL_STATES:
        with house.waits.taking(caller.name):
            job = await _ended(house, job, wait_s)
    return shapes.Job.of(job)


@router.post("/{job_id}/cancel", operation_id="cancel_job", responses=problems.of(404, 422))
def cancelled(job_id: uuid.UUID, house: Owned, caller: Submitter) -> shapes.Job:
    """Drop what is not done of a job; finished outcomes are kept. One that has ended is left as it is."""
    read(house, caller, job_id)
    problems.opened(intake.cancel(house.desk, str(job_id)))
    return shapes.Job.of(read(house, caller, job_id))


@router.post("/{job_id}/retry", operation_id="retry_job", status_code=202, responses=problems.of(404, 422))
def retried(job_id: uuid.UUID, house: Owned, caller: Submitter) -> shapes.Job:
    """Classify again what failed or was left undone; a job without any is left as it is."""
    with session.transaction(house.sessions) as transaction:
        job = visible(transaction, caller, job_id)
        size = sizing.shard_size(transaction, house.settings.shard_size, job.model, job.num_items)
        jobs.retry(transaction, job_id, shard_size=size)
    return shapes.Job.of(read(house, caller, job_id))


def read(house: House, caller: Caller, job_id: uuid.UUID) -> JobView:
    """Read a job of the caller's. Raises `UnknownJob`, also for another's: whose it is says nothing to others."""
    with session.reading(house.sessions) as reading:
        return visible(reading, caller, job_id)


def visible(reading: Session, caller: Caller, job_id: uuid.UUID) -> JobView:
    """Read a job of the caller's within a transaction. Raises `UnknownJob`."""
    job = jobs.job(reading, job_id)
    if job.caller != caller.name and not caller.may("operate"):
        raise errors.UnknownJob(f"There is no job {job_id}.")
    return job


async def _from_json(request: Request, house: House, order: Order) -> Placed:
    given = await bodies.value(request, shapes.NewJob)
    # What the body says itself counts more than the query.
    unsaid = {name: getattr(order.wish, name) for name in order.wish.model_fields_set - given.model_fields_set}
    order = replace(order, wish=given.model_copy(update=unsaid))
    source = submissions.from_items(given.items)
    return await submissions.place(house, order, source, manifests.check(source))


async def _from_lines(request: Request, house: House, order: Order) -> Placed:
    with house.uploads.taking(order.caller):
        async with bodies.lines(request) as file:
            source = submissions.from_lines(file)
            num_items = await to_thread.run_sync(manifests.check, source, limiter=house.slow_threads)
            return await submissions.place(house, order, source, num_items)


async def _from_form(request: Request, house: House, order: Order) -> Placed:
    with house.uploads.taking(order.caller):
        async with bodies.form(request) as form:
            files = [one for name, one in form.multi_items() if name == "images" and not isinstance(one, str)]
            fields = {name: one for name, one in form.multi_items() if isinstance(one, str)}
            said = bodies.checked(shapes.WishInText, {**request.query_params, **fields})
            order = replace(order, wish=said)
            if not files or len(files) + len(fields) < len(form.multi_items()):
                raise problems.RequestRefused(422, "invalid", "Give each image as a file in a field named `images`.")
            source = await to_thread.run_sync(submissions.from_files, house, files, limiter=house.slow_threads)
            return await submissions.place(house, order, source, manifests.check(source))


async def _ended(house: House, job: JobView, within_s: float) -> JobView:
    """Give a job once it has ended, or as it is after so many seconds."""
    with house.watch.following(job.id) as newest:
        try:
            async with asyncio.timeout(within_s):
                while job.state not in FINAL_STATES:
                    job = await newest.get()
        except TimeoutError:
            pass
    return job
