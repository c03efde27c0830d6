"""Takes whatever went wrong with a request. Gives `application/problem+json` (RFC 9457), in one sentence.

Knows nothing of any one request. No answer holds a traceback.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from db import errors
from worker import forms, intake, manifests, messages
from worker.client import BrokerUnreachable, ClientError, NotAcknowledged, Refused

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
#: Seconds after which to ask again where the ledger or the broker is away.
AWAY_S = 5.0

#: Why a request was refused, as a fact a program can match on -> the status it is answered with.
STATUSES: Mapping[str, int] = {
    "invalid": 422,
    "unknown_job": 404,
    "unknown_model": 404,
    "unknown_version": 404,
    "unknown_class": 404,
    "unknown_run": 404,
    "unknown_key": 404,
    "idempotency_conflict": 422,  # draft-ietf-httpapi-idempotency-key-header, 2.7
    "part_invalid": 422,
    "callback_refused": 403,
    "playbook_invalid": 422,
    "recipe_invalid": 422,
    "nothing_to_start_from": 409,
    "job_finished": 409,
    "run_finished": 409,
    "serving_changed": 409,
    "nothing_to_roll_back": 409,
    "gate_refuses": 409,
    "queue_full": 429,
    "quota_exceeded": 429,
    "ledger_unreachable": 503,
    "schema_old": 503,
    "schema_new": 503,
}
#: What the framework says in one word.
SENTENCES: Mapping[int, str] = {
    404: "There is nothing here; /docs lists what there is.",
    405: "This is not done here by that method; /docs lists what is.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What went wrong, in the words of RFC 9457."""

    #: Names the kind of problem, everywhere alike.
    type: str
    title: str
    status: int
    #: One sentence: what happened, and what to do.
    detail: str
    #: The last word of `type`, as the client and the command line have it.
    kind: str
    #: Seconds after which the same request is worth another try; absent where that would not help.
    retry_after_s: float | None = None


class RequestRefused(HTTPException):
    """The request cannot be served. Of the framework's kind, for what else ends the reading of a body it calls 400."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.status = status
        self.kind = kind
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.detail


def too_large(most: int) -> RequestRefused:
    """Refuse a body of more bytes than that."""
    said = f"The body has more than {most:,} bytes; send several jobs, or put the images where the workers read them."
    return RequestRefused(413, "too_large", said, headers={"Connection": "close"})


def of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the problems that a route may answer with, beside those that any may."""
    body = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    return {status: {"description": HTTPStatus(status).phrase, **body} for status in statuses}


def opened(reply: Any) -> Any:
    """Give an answer of intake's. Raises `RequestRefused` for a refusal."""
    if isinstance(reply, messages.Refusal):
        raise of_refusal(reply.kind, reply.message, reply.retry_after_s)
    return reply


def of_refusal(kind: str, message: str, retry_after_s: float | None = None) -> RequestRefused:
    """Give a refusal its status. What is too large for any queue is not worth another try, and so no 429."""
    status = STATUSES.get(kind, 422)
    if status == HTTPStatus.TOO_MANY_REQUESTS and retry_after_s is None:
        status = 413
    if status == HTTPStatus.SERVICE_UNAVAILABLE and retry_after_s is None:
        retry_after_s = AWAY_S
    return RequestRefused(status, kind, message, retry_after_s=retry_after_s)


def answer(refused: RequestRefused) -> JSONResponse:
    """Write a problem down."""
    problem = Problem(
        type=f"urn:imagemill:problem:{refused.kind}",
        title=HTTPStatus(refused.status).phrase,
        status=refused.status,
        detail=forms.printable(str(refused), most=forms.MAX_SENTENCE),
        kind=refused.kind,
        retry_after_s=refused.retry_after_s,
    )
    headers = dict(refused.headers or {})
    if refused.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(refused.retry_after_s))
    body = {name: value for name, value in asdict(problem).items() if value is not None}
    return JSONResponse(body, status_code=refused.status, headers=headers, media_type=MEDIA_TYPE)


def handle(app: FastAPI) -> None:
    """Have every error of this app answered so."""
    for kind in (
        RequestRefused, HTTPException, RequestValidationError, messages.MessageInvalid, errors.LedgerError,
        ClientError, manifests.ManifestInvalid, ClientDisconnect, Exception,
    ):  # fmt: skip
        app.add_exception_handler(kind, _handle)


async def _handle(request: Request, wrong: Exception) -> JSONResponse:
    refused = _refused(wrong)
    if refused.status == HTTPStatus.METHOD_NOT_ALLOWED:
        refused.headers = {"Allow": ", ".join(sorted(_methods(request)))}
    return answer(refused)


def _methods(request: Request) -> set[str]:
    """Name what may be done at a path: by all its routes, where the framework names those of the first."""
    found = (one for one in request.app.routes if one.matches(request.scope)[0] is not Match.NONE)
    return {method for one in found for method in getattr(one, "methods", None) or ()}


def _refused(wrong: Exception) -> RequestRefused:  # noqa: PLR0911 - a table of kinds, in code for the narrowing
    if isinstance(wrong, RequestRefused):
        return wrong
    if isinstance(wrong, HTTPException):
        return _of_framework(wrong)
    if isinstance(wrong, RequestValidationError):
        return RequestRefused(422, "invalid", _first(wrong))
    if isinstance(wrong, messages.MessageInvalid | manifests.ManifestInvalid):
        return of_refusal("invalid", str(wrong))
    if isinstance(wrong, errors.LedgerError):
        return _of_ledger(wrong)
    if isinstance(wrong, ClientError):
        return _of_client(wrong)
    if isinstance(wrong, ClientDisconnect):
        return RequestRefused(400, "cut_off", "The body was cut off; nothing of it was recorded.")
    return RequestRefused(500, "internal", "The server failed on this request; its log says more.")


def _of_framework(wrong: HTTPException) -> RequestRefused:
    kind = HTTPStatus(wrong.status_code).name.lower()
    detail = SENTENCES.get(wrong.status_code) or f"{str(wrong.detail).rstrip('.')}."
    return RequestRefused(wrong.status_code, kind, detail, headers=wrong.headers)


def _of_ledger(wrong: errors.LedgerError) -> RequestRefused:
    refusal = intake.refusal_of(wrong)
    if isinstance(wrong, errors.LedgerUnreachable):
        log.error("%s", wrong)  # where the ledger lies is nobody's business
        return of_refusal(refusal.kind, "The ledger cannot be reached. Try again in a moment.")
    return of_refusal(refusal.kind, refusal.message)


def _of_client(wrong: ClientError) -> RequestRefused:
    if isinstance(wrong, Refused):
        return of_refusal(wrong.kind, str(wrong), wrong.retry_after_s)
    log.error("%s", wrong)
    if isinstance(wrong, BrokerUnreachable):
        return RequestRefused(503, "broker_unreachable", "The queue does not answer.", retry_after_s=AWAY_S)
    if isinstance(wrong, NotAcknowledged):
        return RequestRefused(503, "not_acknowledged", str(wrong), retry_after_s=AWAY_S)
    return RequestRefused(500, "internal", "The server failed on this request; its log says more.")


def _first(wrong: RequestValidationError) -> str:
    """Say the first thing that is wrong, and where."""
    first = wrong.errors()[0]
    place, *path = (str(step) for step in first["loc"])
    named = ".".join(path)
    return f"{named or place} ({place}): {first['msg']}."
