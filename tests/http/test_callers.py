"""Who may call, and for what."""

import pytest
from fastapi import APIRouter

from db import keys, session
from tests.http.calls import Calls
from worker.web import callers, server

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
router = APIRouter()


@router.get("/probe")
def probe(caller: callers.Reader) -> str:
    return caller.name


@router.post("/probe")
def change(caller: callers.Submitter) -> str:
    return caller.name


@pytest.fixture(autouse=True)
def probed(monkeypatch):
    monkeypatch.setattr(server, "ROUTERS", (*server.ROUTERS, router))


def test_health_needs_no_key(served):
    assert Calls(port=served.port).get("/healthcheck").json == {"status": "ok"}


@pytest.mark.parametrize(
    ("shown", "kind"),
    [
        pytest.param({}, "key_missing", id="none"),
        pytest.param({"Authorization": "Bearer im_guessed"}, "key_unknown", id="guessed"),
        pytest.param({"Authorization": "Basic dTpw"}, "key_missing", id="a password"),
        pytest.param({"Cookie": "imagemill_key=im_guessed"}, "key_unknown", id="a guessed cookie"),
    ],
)
def test_without_a_key_nothing_is_answered_but_how_to_show_one(served, shown, kind):
    answer = Calls(port=served.port, headers=shown).get("/probe")
    assert answer.problem() == (401, kind)
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_key_that_expired_or_was_revoked_says_so(served):
    late = served.key("submit", expires_in_s=-1.0)
    assert Calls(port=served.port, key=late).get("/probe").problem() == (401, "key_expired")
    secret = served.key("submit")
    with session.transaction(served.sessions) as transaction:
        keys.revoke(transaction, keys.find(transaction, secret).id)
    assert Calls(port=served.port, key=secret).get("/probe").problem() == (401, "key_revoked")


def test_any_key_may_read_and_no_key_more_than_it_is_for(served):
    label = served.calls("label")
    assert label.get("/probe").json == "shop"
    refused = label.post("/probe")
    assert refused.problem() == (403, "scope_missing")
    assert "`submit`" in refused.json["detail"]
    assert served.calls("submit").post("/probe").json == "shop"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param({}, 403, id="no word of where from"),
        pytest.param({"Sec-Fetch-Site": "same-origin"}, 200, id="this site's page"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, 403, id="another site's page"),
        pytest.param({"Sec-Fetch-Site": "same-site", "Origin": "http://{host}"}, 403, id="a neighbour's page"),
        pytest.param({"Origin": "http://{host}"}, 200, id="an old browser on this site"),
        pytest.param({"Origin": "https://evil.example"}, 403, id="an old browser on another"),
        pytest.param({"Origin": "null"}, 403, id="a frame without an origin"),
    ],
)
def test_a_cookie_reads_from_anywhere_and_changes_things_from_this_site_alone(served, sent, status):
    host = f"127.0.0.1:{served.port}"
    headers = {name: value.format(host=host) for name, value in sent.items()}
    cookie = {"Cookie": f"imagemill_key={served.key('submit')}"}
    assert Calls(port=served.port, headers=cookie).get("/probe").status == 200
    assert Calls(port=served.port, headers=cookie | headers).post("/probe").status == status


def test_a_key_is_kept_as_its_hash_and_its_last_use_is_known(served):
    secret = served.key("submit")
    assert Calls(port=served.port, key=secret).get("/probe").status == 200
    with session.reading(served.sessions) as reading:
        [known] = keys.keys(reading)
        rows = reading.connection().exec_driver_sql("SELECT * FROM api_keys").all()
    assert known.scopes == ("submit",)
    assert secret not in str(rows)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        pytest.param("GET", "/nothing", (404, "not_found"), id="no such path"),
        pytest.param("DELETE", "/probe", (405, "method_not_allowed"), id="no such method"),
    ],
)
def test_what_the_framework_refuses_is_a_problem_too(served, method, path, expected):
    assert served.calls("submit")(method, path).problem() == expected
