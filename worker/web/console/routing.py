"""Takes what goes wrong on the way to a page. Gives a page that says so, and who may see which.

Knows nothing of what the pages show.
"""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import RedirectResponse, Response

from db import errors as db_errors
from worker.client import BrokerUnreachable, ClientError, Refused
from worker.messages import MessageInvalid
from worker.web import callers
from worker.web.callers import Caller, Need
from worker.web.console import rendering
from worker.web.console.pictures import Busy
from worker.web.problems import RequestRefused

#: what the ledger lacks, and what it refuses
MISSING = (db_errors.UnknownJob, db_errors.UnknownModel, db_errors.UnknownVersion, db_errors.UnknownRun)
REFUSED = (
    db_errors.RunFinished, db_errors.ServingChanged, db_errors.NothingToRollBack, db_errors.GateRefuses, Refused,
)  # fmt: skip
SCOPES = {
    "label": "Labels are recorded with a key that has the scope “label”.",
    "operate": "Only a key with the scope “operate” may promote, roll back, retrain or cancel.",
}


class Problem(Exception):
    """There is no such page, or it cannot be shown now; the sentence says why."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class SignedOut(Exception):
    """Nobody has signed in."""


class Route(APIRoute):
    """A page: whatever goes wrong on the way to it is told as a page, too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap what FastAPI makes of the function."""
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                return await handle(request)
            except SignedOut:
                return _sign_in(request)
            except Exception as wrong:
                status = _status(wrong)
                if status is None:
                    raise
                return problem(request, status, sentence(wrong))

        return told


def visitor_of(request: Request) -> Caller:
    """Give who looks, by the key in the cookie. Raises `SignedOut`, and `Problem` for what another site sent."""
    secret = request.cookies.get(callers.COOKIE)
    if secret is None:
        raise SignedOut
    try:
        visitor = callers.admit(callers.house_of(request), secret)
    except RequestRefused as gone:  # expired or revoked since
        raise SignedOut from gone
    request.state.visitor = visitor
    if request.method not in callers.SAFE:
        check_same_site(request)
    return visitor


By = Annotated[Caller, Depends(visitor_of)]


def check_same_site(request: Request) -> None:
    """Raise `Problem` unless one of our own pages sent this."""
    if not callers.is_same_site(request):
        raise Problem(HTTPStatus.FORBIDDEN, "This did not come from a page of the console: open it and try again.")


def check_scope(visitor: Caller, need: Need) -> None:
    """Raise `Problem` if the visitor's key lacks a scope."""
    if not visitor.may(need):
        raise Problem(HTTPStatus.FORBIDDEN, f"{SCOPES[need]} Yours, {visitor.name}, has: {_listed(visitor)}.")


def problem(request: Request, status: HTTPStatus, sentence: str) -> Response:
    """Say what went wrong."""
    return rendering.page(
        "problem.html", getattr(request.state, "visitor", None), status=status, title=status.phrase, sentence=sentence
    )


def sentence(wrong: Exception) -> str:
    """Say what went wrong, to somebody whom our addresses do not concern."""
    if isinstance(wrong, RequestValidationError):
        first = wrong.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'][1:])}: {first['msg']}."
    if isinstance(wrong, db_errors.LedgerUnreachable):
        return "The ledger cannot be reached. Try again in a moment."
    if isinstance(wrong, BrokerUnreachable):
        return "The queue does not answer. Try again in a moment."
    return str(wrong) or str(type(wrong).__doc__)


def went(*parts: object, **query: object) -> Response:
    """Send the browser on to another page, after something was done."""
    return RedirectResponse(rendering.link(*parts, **query), HTTPStatus.SEE_OTHER)


def _listed(visitor: Caller) -> str:
    return ", ".join(sorted(visitor.scopes)) or "none"


def _sign_in(request: Request) -> Response:
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return went("sign-in", next=asked if request.method == "GET" else None)


def _status(wrong: Exception) -> HTTPStatus | None:
    for kinds, status in (
        (MISSING, HTTPStatus.NOT_FOUND),
        (REFUSED, HTTPStatus.CONFLICT),
        ((RequestValidationError, MessageInvalid), HTTPStatus.BAD_REQUEST),
        ((db_errors.LedgerError, ClientError, Busy), HTTPStatus.SERVICE_UNAVAILABLE),
    ):
        if isinstance(wrong, kinds):
            return status
    return wrong.status if isinstance(wrong, Problem) else None
