"""Prometheus reads the page over HTTP, with a token made for that."""

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.http import conftest
from tests.http.calls import Calls
from worker.settings import Settings

TOKEN = "only-for-scraping-0123456789"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def scraped(home, redis_url, database_url):
    settings = Settings(home=home, broker_url=redis_url, database_url=database_url, metrics_token=TOKEN).resolved()
    with conftest.serve(settings) as served:
        yield served


def test_the_token_opens_this_page_and_no_other(scraped):
    calls = Calls(port=scraped.port, key=TOKEN)
    answer = calls.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"imagemill_ledger_up 1.0" in answer.body
    assert b"imagemill_broker_up 1.0" in answer.body
    assert b'imagemill_workers{role="http",state="ready"} 1.0' in answer.body
    newer = calls.get("/metrics", accept=OPENMETRICS)
    assert newer.headers["content-type"].startswith("application/openmetrics-text")
    assert list(text_string_to_metric_families(newer.body.decode()))


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [((), (401, "key_missing")), (("submit", "label"), (403, "scope_missing")), (("operate",), None)],
    ids=["nobody", "no operator", "an operator"],
)
def test_without_the_token_an_operators_key_is_asked_for(scraped, scopes, expected):
    answer = scraped.calls(*scopes).get("/metrics")
    if expected is None:
        assert answer.status == 200
    else:
        assert answer.problem() == expected


def test_where_no_token_is_set_none_is_let_in(served):
    assert Calls(port=served.port, key=TOKEN).get("/metrics").problem() == (401, "key_unknown")
