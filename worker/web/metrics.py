"""Takes Prometheus's request. Gives what it reads, to who shows the token made for that or an operator's key.

Knows nothing of what is measured.
"""

import hmac
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from worker.web import callers
from worker.web.callers import Owned

router = APIRouter(tags=["metrics"])

_TOKEN = HTTPBearer(auto_error=False, description="IMAGEMILL_METRICS_TOKEN, or a key with the scope `operate`")
_OPERATOR = callers.needs("operate")


def scraper(
    request: Request, house: Owned, shown: Annotated[HTTPAuthorizationCredentials | None, Security(_TOKEN)]
) -> None:
    """Let Prometheus in by a token that opens nothing else, so that its configuration holds no operator's key."""
    token = house.settings.metrics_token
    if not (shown and token and hmac.compare_digest(shown.credentials.encode(), token.encode())):
        _OPERATOR(request, shown, None)


@router.get("/metrics", dependencies=[Depends(scraper)], response_class=Response, include_in_schema=False)
def metrics(request: Request, house: Owned) -> Response:
    """Give the page that Prometheus reads, in its text format or as OpenMetrics."""
    page, content_type = house.exposition.page(request.headers.get("accept", ""))
    return Response(page, headers={"content-type": content_type})
