"""Takes a key that somebody types in. Gives it back in a cookie that no script reads and no other site sends.

Knows nothing of what the key is for.
"""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from worker.web import callers
from worker.web.callers import Owned
from worker.web.console import rendering, routing
from worker.web.problems import RequestRefused

router = APIRouter(route_class=routing.Route)

#: seconds a browser keeps the key: a working day
KEPT_S = 12 * 3600


@router.get("/sign-in")
def ask(next: str = "") -> Response:  # noqa: A002 - the query's word
    """Show the form."""
    return rendering.page("sign_in.html", None, next=_ours(next), refused="")


@router.post("/sign-in")
def sign_in(
    request: Request,
    house: Owned,
    key: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "",  # noqa: A002 - the form's word
) -> Response:
    """Let somebody in whose key is known."""
    routing.check_same_site(request)
    try:
        callers.admit(house, key.strip())
    except RequestRefused as refused:
        return rendering.page(
            "sign_in.html", None, status=HTTPStatus.UNAUTHORIZED, next=_ours(next), refused=str(refused)
        )
    answer = RedirectResponse(_ours(next), HTTPStatus.SEE_OTHER)
    answer.set_cookie(
        callers.COOKIE,
        key.strip(),
        max_age=KEPT_S,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


@router.post("/sign-out")
def sign_out(request: Request) -> Response:
    """Forget the key."""
    routing.check_same_site(request)
    answer = routing.went("sign-in")
    answer.delete_cookie(callers.COOKIE, path="/", httponly=True, samesite="strict")
    return answer


def _ours(asked: str) -> str:
    """Give the page that was asked for, if it is one of the console's: no link leads somebody elsewhere."""
    is_ours = asked == rendering.ROOT or asked.startswith((f"{rendering.ROOT}/", f"{rendering.ROOT}?"))
    return asked if is_ours and asked.isprintable() and "\\" not in asked else rendering.ROOT
