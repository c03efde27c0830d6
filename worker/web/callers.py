"""Takes what a caller shows. Gives who calls and what for, or a refusal that says what is missing.

Knows nothing of what is asked for. A key travels as `Authorization: Bearer KEY`, or in the console's cookie.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from db import keys, session
from worker.web.house import House
from worker.web.problems import RequestRefused

#: What a request needs: `read` is part of each of the others.
Need = Literal["read", "submit", "label", "operate"]
#: Where the console's sign-in page keeps the key: HttpOnly, SameSite=Strict.
COOKIE = "imagemill_key"
#: Methods that change nothing, for which a cookie is enough.
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_BEARER = HTTPBearer(auto_error=False, description="A key of `imagemill keys add`")
_COOKIE = APIKeyCookie(name=COOKIE, auto_error=False, description="The same key, as the console keeps it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls."""

    #: The name of the key: the `caller` of what is submitted with it.
    name: str
    scopes: tuple[keys.Scope, ...]

    def may(self, need: Need) -> bool:
        """Whether the caller's key is for this."""
        return need == "read" or need in self.scopes


def house_of(request: Request) -> House:
    """Give what requests are answered with."""
    house: House = request.app.state.house
    return house


def needs(need: Need) -> Callable[..., Caller]:
    """Make the dependency of a route that only callers with this scope may use."""

    def caller(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
        cookie: Annotated[str | None, Security(_COOKIE)],
    ) -> Caller:
        known = admit(house_of(request), _shown(request, bearer, cookie))
        if not known.may(need):
            raise RequestRefused(
                403, "scope_missing", f"This key is not for that: it needs the scope `{need}` (imagemill keys add)."
            )
        return known

    return caller


def admit(house: House, secret: str) -> Caller:
    """Look a key up. Raises `RequestRefused` (401) unless it is known, not expired and not revoked."""
    with session.reading(house.sessions) as reading:
        key = keys.find(reading, secret)
    if key is None:
        raise _unauthorized("key_unknown", "This key is not known; make one with `imagemill keys add`.", shown=True)
    if key.state != "valid":
        raise _unauthorized(f"key_{key.state}", f"This key is {key.state}; make a new one.", shown=True)
    house.used_keys.add(key.id)
    return Caller(name=key.name, scopes=key.scopes)


def _shown(request: Request, bearer: HTTPAuthorizationCredentials | None, cookie: str | None) -> str:
    if bearer is not None:
        return bearer.credentials
    if cookie is None:
        raise _unauthorized("key_missing", "Show a key: a header `Authorization: Bearer KEY`.", shown=False)
    if request.method not in SAFE and not is_same_site(request):
        raise RequestRefused(403, "cross_site", "A cookie counts for requests of this site's own pages alone.")
    return cookie


def is_same_site(request: Request) -> bool:
    """Whether a page of this very site sent the request, as every browser of today says."""
    fetched = request.headers.get("sec-fetch-site")
    if fetched is not None:
        return fetched == "same-origin"
    origin = request.headers.get("origin", "")
    return bool(origin) and urlsplit(origin).netloc == request.headers.get("host")


def _unauthorized(kind: str, detail: str, *, shown: bool) -> RequestRefused:
    challenge = 'Bearer realm="imagemill"' + (', error="invalid_token"' if shown else "")
    return RequestRefused(401, kind, detail, headers={"WWW-Authenticate": challenge})


Owned = Annotated[House, Depends(house_of)]
Reader = Annotated[Caller, Depends(needs("read"))]
Submitter = Annotated[Caller, Depends(needs("submit"))]
Labeller = Annotated[Caller, Depends(needs("label"))]
Operator = Annotated[Caller, Depends(needs("operate"))]
