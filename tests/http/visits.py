"""Takes a served app and a key. Gives a visitor who calls the console as a browser does: with a cookie, and an origin.

Knows nothing of what is tested.
"""

from dataclasses import dataclass
from html import unescape
from urllib.parse import urlencode

from tests.http.calls import Answer, Calls
from worker.web import callers


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Somebody with a browser."""

    port: int
    key: str = ""
    #: the site that the browser's page is of
    origin: str = ""

    def get(self, path: str) -> Answer:
        return self._calls().get(path)

    def post(self, path: str, **form: str) -> Answer:
        origin = self.origin or f"http://127.0.0.1:{self.port}"
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": origin}
        return self._calls()("POST", path, urlencode(form).encode(), **headers)

    def read(self, path: str) -> str:
        """Give a page that must be there, as text with its entities resolved."""
        answer = self.get(path)
        assert answer.status == 200, (answer.status, answer.body)
        return unescape(answer.body.decode())

    def _calls(self) -> Calls:
        return Calls(port=self.port, headers={"Cookie": f"{callers.COOKIE}={self.key}"} if self.key else {})
