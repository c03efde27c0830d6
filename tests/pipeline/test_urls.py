"""Whoever names a URL gets what a public server proves to be its own, and nothing else of anybody's network.

Servers, certificates and connections are real. Only the names and the ways to public addresses are made up, below the
sockets, so that nothing has to be let in for the tests.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from pipeline import hosts, urls
from pipeline.errors import ItemUnfetchable
from pipeline.references import Roots, fetch
from pipeline.serving import batching
from tests import web
from tests.internet import Internet
from tests.web import answer, ok, redirect

MAX_BYTES = 200_000
#: public addresses of two servers, and of nobody
ONE, OTHER, NOBODY = "93.184.216.34", "93.184.216.35", "93.184.216.99"
ONE_V6 = "2606:2800:220:1:248:1893:25c8:1946"
HOST, OTHER_HOST = "images.example.org", "cdn.example.org"
#: what no URL may lead to, in the forms that name servers give
PRIVATE = (
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.5", "100.64.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.254",
    "192.0.0.8", "192.0.0.170", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:93.184.216.34", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::a00:5",
    "100::1", "2001::1", "2001:0:7f00:1::", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:5::1", "3fff::1",
    "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "ff0e::1",
)  # fmt: skip
PICTURE = b"\x89PNG" + bytes(range(256)) * 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """The servers, and the Internet they are found on."""

    site: web.Server
    other: web.Server
    canary: web.Server
    internet: Internet


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> web.Authority:
    """The one that this machine trusts."""
    return web.Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def servers(authority: web.Authority) -> Iterator[tuple[web.Server, web.Server, web.Server]]:
    """Two servers that prove who they are, and the canary."""
    with ExitStack() as stack:
        one, other = (stack.enter_context(web.serving({}, authority.context(host))) for host in (HOST, OTHER_HOST))
        yield one, other, stack.enter_context(web.canary())


@pytest.fixture
def net(
    servers: tuple[web.Server, web.Server, web.Server], authority: web.Authority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Web]:
    """Two hosts on public addresses; whatever is private leads to the canary, which must not be touched."""
    site, other, canary = servers
    site.start_over({"/a.png": ok(PICTURE)})
    other.start_over({"/b.png": ok(b"other")})
    routes = {f"{address} {port}": canary.port for address in PRIVATE for port in (80, 443, 8443)}
    routes |= {f"{address} {port}": site.port for address in (ONE, ONE_V6) for port in (443, 8443)}
    routes |= {f"{OTHER} 443": other.port, f"{ONE} 80": canary.port}
    internet = Internet({HOST: [[ONE]], OTHER_HOST: [[OTHER]]}, routes)
    internet.install(monkeypatch.setattr)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    urls._context.cache_clear()
    urls._hosts.cache_clear()
    yield Web(site=site, other=other, canary=canary, internet=internet)
    urls._context.cache_clear()
    assert canary.num_hits == 0


def get(url: str, *roots: str, max_bytes: int = MAX_BYTES) -> bytes:
    return fetch(url, Roots.parse(roots or ("https://*",)), max_bytes=max_bytes)


def refused(url: str, *roots: str, max_bytes: int = MAX_BYTES) -> str:
    """The kind of the refusal."""
    with pytest.raises(ItemUnfetchable) as caught:
        get(url, *roots, max_bytes=max_bytes)
    assert caught.value.stage == "fetch"
    assert caught.value.message.endswith(".")
    return caught.value.kind


# ---------------------------------------------------------------- what is allowed


@pytest.mark.parametrize(
    ("url", "root"),
    [
        (f"https://{HOST}/a.png", "https://*"),
        (f"https://{HOST}/a.png", f"https://{HOST}"),
        (f"https://{HOST}/a.png", f"https://{HOST.upper()}:443/"),
        (f"https://{HOST.upper()}:443/a.png#part", f"https://{HOST}"),
        (f"https://{HOST}:8443/a.png", f"https://{HOST}:8443"),
        (f"https://{HOST}/in/x%20y.png?size[]=1&z=a::b", f"https://{HOST}/in/"),
    ],
)
def test_a_url_under_a_root_is_read(net: Web, url: str, root: str) -> None:
    net.site.answers["/in/x%20y.png?size[]=1&z=a::b"] = ok(PICTURE)
    assert get(url, root) == PICTURE


def test_the_question_names_the_host_and_asks_for_nothing_packed(net: Web) -> None:
    get(f"https://{HOST}/a.png")
    [question] = net.site.requests
    lines = question.split("\r\n")
    assert lines[:2] == ["GET /a.png HTTP/1.1", f"Host: {HOST}"]
    assert "Accept-Encoding: identity" in lines
    assert "cookie" not in question.lower()


def test_an_address_of_either_family_serves_and_the_next_one_helps_out(net: Web) -> None:
    net.internet.names[HOST] = [[ONE_V6]]
    assert get(f"https://{HOST}/a.png") == PICTURE
    net.internet.names[HOST] = [[NOBODY, ONE]]
    assert get(f"https://{HOST}/a.png") == PICTURE


@pytest.mark.parametrize(
    "body",
    [
        answer(200, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        answer(200) + b"abcde",
        answer(200, "Content-Length: 5") + b"abcde and more",
        b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"abcde"),
        ok(b"abcde", "Content-Encoding: Identity"),
    ],
    ids=["in chunks", "until the end", "longer than it says", "after a continue", "said to be unpacked"],
)
def test_a_whole_body_is_read_however_it_is_framed(net: Web, body: bytes) -> None:
    net.site.answers["/a.png"] = body
    assert get(f"https://{HOST}/a.png") == b"abcde"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_to_another_allowed_host(net: Web, status: int) -> None:
    net.site.answers["/go"] = redirect(f"https://{OTHER_HOST}/b.png", status)
    assert get(f"https://{HOST}/go", f"https://{HOST}", f"https://{OTHER_HOST}") == b"other"
    assert refused(f"https://{HOST}/go", f"https://{HOST}") == "outside_roots"


def test_three_redirects_are_followed_and_no_more(net: Web) -> None:
    net.site.answers |= {f"/{step}": redirect(f"/{step + 1}") for step in range(4)}
    net.site.answers["/4"] = ok(b"there")
    assert get(f"https://{HOST}/1") == b"there"
    assert refused(f"https://{HOST}/0") == "too_many_redirects"
    net.site.answers["/round"] = redirect("")
    assert refused(f"https://{HOST}/round") == "too_many_redirects"


def test_a_cookie_is_not_carried_on(net: Web) -> None:
    net.site.answers["/go"] = answer(302, "Location: /a.png", "Set-Cookie: who=me; Secure", "Content-Length: 0")
    get(f"https://{HOST}/go")
    assert "cookie" not in "".join(net.site.requests).lower()


# ---------------------------------------------------------------- what is refused by its name


def test_nothing_is_read_unless_a_root_says_so(net: Web, tmp_path: Path) -> None:
    assert refused(f"https://{HOST}/a.png", str(tmp_path)) == "unsupported_scheme"
    assert refused(f"http://{HOST}/a.png", "https://*") == "unsupported_scheme"
    assert net.internet.num_asked.total() == 0


@pytest.mark.parametrize("root", ["http://images.example.org", "HTTP://*", "HTTPS://images.example.org"])
def test_a_root_without_tls_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match="must begin with https://"):
        Roots.parse([root])


@pytest.mark.parametrize(
    "root", ["https://", "https:///x", "https://127.0.0.1", "https://me@images.example.org", "https://*.example.org"]
)
def test_a_root_that_names_no_host_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match="must be https://HOST"):
        Roots.parse([root])


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://127.0.0.1/a.png", "invalid_url"),
        ("https://93.184.216.34/a.png", "invalid_url"),
        ("https://2130706433/a.png", "invalid_url"),
        ("https://127.1/a.png", "invalid_url"),
        ("https://0177.0.0.1/a.png", "invalid_url"),
        ("https://0x7f.0.0.1/a.png", "invalid_url"),
        ("https://0x7f000001/a.png", "invalid_url"),
        ("https://images.example.0x7f/a.png", "invalid_url"),
        ("https://[::1]/a.png", "invalid_url"),
        ("https://[::ffff:127.0.0.1]/a.png", "invalid_url"),
        ("https://[fe80::1%25eth0]/a.png", "invalid_url"),
        ("https://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/a.png", "invalid_url"),
        ("https://localhost/a.png", "invalid_url"),
        ("https://redis:6379/a.png", "invalid_url"),
        ("https:///a.png", "invalid_url"),
        (f"https://{HOST}./a.png", "invalid_url"),
        (f"https://me:secret@{HOST}/a.png", "invalid_url"),
        (f"https://{HOST}@127.0.0.1/a.png", "invalid_url"),
        (f"https://127.0.0.1\\@{HOST}/a.png", "invalid_url"),
        (f"https://{HOST}\\@127.0.0.1/a.png", "invalid_url"),
        (f"https://{HOST}:99999/a.png", "invalid_url"),
        (f"https://{HOST}:/a.png", "invalid_url"),
        (f"https://{HOST}/a.png HTTP/1.1\r\nX: y", "invalid_url"),
        (f"https://{HOST}/a\tb.png", "invalid_url"),
        (f"https://{HOST}/k\u00e4se.png", "invalid_url"),
        (f"https://{HOST}:8443/a.png", "outside_roots"),
        (f"https://{HOST}/in/../a.png", "outside_roots"),
        (f"https://{HOST}/in/%2e%2e/a.png", "outside_roots"),
        (f"https://{HOST}/in%5c..%5ca.png", "outside_roots"),
        (f"HTTPS://{HOST}/a.png", "unsupported_scheme"),
        ("https://nobody.example.org/a.png", "unreachable"),
    ],
)
def test_a_name_that_could_mean_something_else_is_not_asked(net: Web, url: str, kind: str) -> None:
    assert refused(url) == kind
    assert net.site.num_hits == 0


@pytest.mark.parametrize(
    "url",
    [f"https://{OTHER_HOST}/in/a.png", f"https://{HOST}/a.png", f"https://{HOST}/inner/a.png", f"https://{HOST}.a.org/in/a.png",
     f"https://{HOST}:8443/in/a.png", f"https://{HOST}/in/../a.png"],
)  # fmt: skip
def test_a_root_with_a_host_and_a_folder_allows_nothing_beside_it(net: Web, url: str) -> None:
    assert refused(url, f"https://{HOST}/in") == "outside_roots"
    assert net.internet.num_asked.total() == 0


# ---------------------------------------------------------------- what is refused by its address


@pytest.mark.parametrize("address", PRIVATE)
def test_no_name_leads_into_a_private_network(net: Web, address: str) -> None:
    net.internet.names[HOST] = [[address]]
    assert refused(f"https://{HOST}/a.png") == "forbidden_address"
    net.internet.names[HOST] = [[ONE, address]]
    assert refused(f"https://{HOST}/a.png") == "forbidden_address"
    assert net.site.num_hits == 0


@pytest.mark.parametrize(
    "address", [ONE, "8.8.8.8", "1.1.1.1", "192.0.1.1", "100.128.0.1", ONE_V6, "2a00:1450:4001::1"]
)
def test_public_addresses_are_public(address: str) -> None:
    assert urls.is_public(ip_address(address))


def test_an_answer_that_changes_after_the_check_changes_nothing(net: Web) -> None:
    net.internet.names[HOST] = [[ONE], ["127.0.0.1"]]
    assert get(f"https://{HOST}/a.png") == PICTURE
    assert net.internet.num_asked[HOST] == 1
    assert refused(f"https://{HOST}/a.png") == "forbidden_address"


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("https://169.254.169.254/latest/meta-data/", "invalid_url"),
        ("http://169.254.169.254/latest/meta-data/", "unsupported_scheme"),
        (f"http://{HOST}/a.png", "unsupported_scheme"),
        ("//127.0.0.1/a.png", "invalid_url"),
        ("https://metadata.example.org/", "forbidden_address"),
        ("https://rebound.example.org/a.png", "forbidden_address"),
        ("https://[::ffff:127.0.0.1]/", "invalid_url"),
        ("https://[oops/", "invalid_url"),
        (f"https://{HOST}:8443/a.png", "outside_roots"),
        ("file:///etc/passwd", "unsupported_scheme"),
        ("gopher://127.0.0.1:6379/_FLUSHALL", "unsupported_scheme"),
        ("/%2e%2e/etc", "outside_roots"),
        ("/a b", "invalid_url"),
    ],
)
def test_a_redirect_is_checked_like_the_first_url(net: Web, location: str, kind: str) -> None:
    net.internet.names |= {"metadata.example.org": [["169.254.169.254"]]}
    net.internet.names |= {"rebound.example.org": [["127.0.0.1"], [ONE]]}
    net.site.answers["/go"] = redirect(location)
    assert refused(f"https://{HOST}/go") == kind
    assert net.site.num_hits == 1


def test_a_host_that_redirects_to_itself_is_looked_up_and_checked_again(net: Web) -> None:
    net.internet.names[HOST] = [[ONE], ["127.0.0.1"]]
    net.site.answers["/go"] = redirect("/a.png")
    assert refused(f"https://{HOST}/go") == "forbidden_address"


def test_a_proxy_of_the_environment_is_not_used(net: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:8443")
    assert get(f"https://{HOST}/a.png") == PICTURE


# ---------------------------------------------------------------- who answers


def test_a_server_that_proves_another_name_is_not_believed(net: Web) -> None:
    net.internet.routes[f"{ONE} 443"] = net.other.port
    assert refused(f"https://{HOST}/b.png") == "untrusted_host"
    assert net.other.requests == []


@pytest.mark.parametrize("how", ["unknown authority", "expired"])
def test_a_server_whose_certificate_is_no_good_is_not_believed(
    net: Web, authority: web.Authority, tmp_path: Path, how: str
) -> None:
    signer = web.Authority(tmp_path) if how == "unknown authority" else authority
    with web.serving({"/a.png": ok(PICTURE)}, signer.context(HOST, expired=how == "expired")) as impostor:
        net.internet.routes[f"{ONE} 443"] = impostor.port
        assert refused(f"https://{HOST}/a.png") == "untrusted_host"
        assert impostor.requests == []


def test_a_server_that_speaks_no_tls_is_unreachable(net: Web) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        net.internet.routes[f"{ONE} 443"] = closed.getsockname()[1]
    assert refused(f"https://{HOST}/a.png") == "unreachable"
    with web.canary() as speechless:
        net.internet.routes[f"{ONE} 443"] = speechless.port
        assert refused(f"https://{HOST}/a.png") == "unreachable"


# ---------------------------------------------------------------- what is answered


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (answer(404), "missing"),
        (answer(410), "missing"),
        (answer(403), "unreadable"),
        (answer(500), "unreadable"),
        (answer(206, "Content-Length: 1") + b"x", "unreadable"),
        (answer(304), "unreadable"),
        (ok(b"\x1f\x8b packed", "Content-Encoding: gzip"), "unreadable"),
        (ok(b"x", "Content-Encoding: br"), "unreadable"),
        (ok(b""), "empty"),
        (answer(200, "Content-Length: 999") + b"cut off", "truncated"),
        (answer(200, "Transfer-Encoding: chunked") + b"9\r\ncut", "truncated"),
        (answer(200, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n", "truncated"),
        (answer(200, "Transfer-Encoding: chunked") + b"no number\r\n", "truncated"),
        (answer(200, "Transfer-Encoding: chunked") + b"-5\r\nabcde\r\n", "truncated"),
        (answer(200, f"Content-Length: {MAX_BYTES + 1}"), "too_large"),
        (answer(200, f"Content-Length: {10**30}"), "too_large"),
        (answer(200) + bytes(MAX_BYTES + 1), "too_large"),
        (answer(200, "Content-Length: -5") + bytes(MAX_BYTES + 1), "too_large"),
        (b"hello, I am no web server\r\n\r\n", "truncated"),
        (b"", "truncated"),
        (answer(200, *("X: y" for _ in range(200))), "truncated"),
        (answer(200, f"X: {'y' * 100_000}"), "truncated"),
        (b"HTTP/1.1 abc\r\n\r\n", "truncated"),
    ],
    ids=[
        "not found", "gone", "forbidden", "broken", "a part", "not modified", "gzip", "brotli", "nothing", "cut off",
        "chunk cut off", "no last chunk", "no chunk", "negative chunk", "says it is large", "says it is huge",
        "is large", "says it is negative", "no web server", "silence", "many headers", "a long header", "no status",
    ],
)  # fmt: skip
def test_an_answer_that_is_no_whole_file_is_refused_with_its_kind(net: Web, given: bytes, kind: str) -> None:
    net.site.answers["/a.png"] = given
    assert refused(f"https://{HOST}/a.png") == kind


def test_a_body_whose_end_nobody_vouches_for_is_cut_off(net: Web) -> None:
    # Anyone on the way can end a connection; only the server can say in TLS that it ended it.
    net.site.answers["/a.png"] = lambda connection: connection.sendall(answer(200) + b"abcde")
    assert refused(f"https://{HOST}/a.png") == "truncated"


CHUNKED = answer(200, "Transfer-Encoding: chunked")
ENDLESS = {
    "until the end": (answer(200), bytes(0x4000)),
    "in chunks": (CHUNKED, b"4000\r\n" + bytes(0x4000) + b"\r\n"),
    "in chunks of a byte": (CHUNKED, b"1\r\nx\r\n" * 0x1000),
    "in a chunk of no size": (CHUNKED + b"-1\r\n", bytes(0x4000)),  # which http.client reads to its end at once
    "behind the last chunk": (CHUNKED + b"1\r\nx\r\n0\r\n", b"X: y\r\n" * 0x1000),
    "before the answer": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 0x400),
}


@pytest.mark.parametrize(("first", "then"), ENDLESS.values(), ids=ENDLESS)
def test_an_endless_answer_is_left_at_the_limit(net: Web, first: bytes, then: bytes) -> None:
    sent = []

    def pour(connection: ssl.SSLSocket) -> None:
        connection.sendall(first)
        while not net.site.is_over.is_set() and len(sent) < 10_000:
            connection.sendall(then)
            sent.append(len(then))

    net.site.answers["/a.png"] = pour
    assert refused(f"https://{HOST}/a.png") == "too_large"
    assert sum(sent) < 100 * MAX_BYTES, "what the system's buffers hold comes on top"


def drip(net: Web, first: bytes, then: bytes) -> Callable[[ssl.SSLSocket], None]:
    def dripping(connection: ssl.SSLSocket) -> None:
        connection.sendall(first)
        while not net.site.is_over.wait(0.05):
            connection.sendall(then)

    return dripping


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (answer(200, "Content-Length: 1000"), b"x"),
        (answer(200, "Transfer-Encoding: chunked"), b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 O", b"K"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["body", "chunks", "status", "header", "continue"],
)
def test_a_server_that_drips_is_left_in_time(
    net: Web, monkeypatch: pytest.MonkeyPatch, first: bytes, then: bytes
) -> None:
    monkeypatch.setattr(urls, "TOTAL_S", 0.4)  # a shorter patience, so that the tests need not have the full one
    net.site.answers["/a.png"] = drip(net, first, then)
    started_s = time.monotonic()
    assert refused(f"https://{HOST}/a.png") == "timed_out"
    assert 0.4 <= time.monotonic() - started_s < 5


def test_redirects_share_one_patience(net: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "TOTAL_S", 0.4)

    def late(connection: ssl.SSLSocket) -> None:
        net.site.is_over.wait(0.3)
        connection.sendall(redirect("/late"))

    net.site.answers["/late"] = late
    assert refused(f"https://{HOST}/late") == "timed_out", "and not too_many_redirects"


def test_silence_is_left_in_time_wherever_it_begins(net: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "TOTAL_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection, and never says hello
        net.internet.routes[f"{ONE} 443"] = silent.getsockname()[1]
        assert refused(f"https://{HOST}/a.png") == "timed_out"

    def slow(*_: object, **__: object) -> list[object]:
        time.sleep(5)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    started_s = time.monotonic()
    assert refused(f"https://{HOST}/a.png") == "timed_out"
    assert time.monotonic() - started_s < 4


# ---------------------------------------------------------------- a host that hangs


def test_a_host_that_hangs_is_left_alone_after_a_few_timeouts_and_tried_by_one_later(
    net: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "TOTAL_S", 0.3)
    monkeypatch.setattr(hosts, "FAIR_S", 0.1)
    monkeypatch.setattr(hosts, "REST_S", 1.0)
    net.site.start_over({"/a.png": lambda _: net.site.is_over.wait(1.0) and None})
    hung = f"https://{HOST}/a.png"
    assert [refused(hung) for _ in range(hosts.NUM_TIMEOUTS)] == ["timed_out"] * hosts.NUM_TIMEOUTS
    began_s = time.monotonic()
    assert [refused(hung) for _ in range(100)] == ["host_timed_out"] * 100
    assert time.monotonic() - began_s < 0.3
    assert get(f"https://{OTHER_HOST}/b.png") == b"other", "another host is served"
    num_asked = net.site.num_hits
    time.sleep(max(0.0, began_s + 1.05 - time.monotonic()))
    with ThreadPoolExecutor(8) as pool:
        assert Counter(pool.map(lambda _: refused(hung), range(8))) == {"timed_out": 1, "host_timed_out": 7}
    assert net.site.num_hits == num_asked + 1, "one probe"
    net.site.start_over({"/a.png": ok(PICTURE)})
    time.sleep(1.05)
    assert [len(get(hung)) for _ in range(3)] == [len(PICTURE)] * 3, "it is well again"


def test_a_slow_host_leaves_threads_to_the_others(net: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "TOTAL_S", 1.0)
    monkeypatch.setattr(hosts, "NUM_TIMEOUTS", 10_000)
    net.site.start_over({"/a.png": lambda _: net.site.is_over.wait(2.0) and None})
    read_s: dict[str, list[float]] = {HOST: [], OTHER_HOST: []}
    began_s = time.monotonic()

    def read(reference: str) -> bytes:
        try:
            return get(reference)
        finally:
            read_s[urls.host_of(reference) or ""].append(time.monotonic() - began_s)

    items = [(n, f"https://{HOST}/a.png") for n in range(8)] + [(n, f"https://{OTHER_HOST}/b.png") for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        stream = batching.batches(
            items, read, lambda _tag, _data: batching.Shaped(None, None), batch_size=16, pool=pool, lookahead=16,
            spent=batching.StageSeconds(), per_host=3,
        )  # fmt: skip
        made = list(stream)
    assert Counter(failure.kind for batch in made for _, failure in batch.failures) == {"timed_out": 8}
    assert sum(len(batch.spared) for batch in made) == 8
    assert max(read_s[OTHER_HOST]) < 0.9, "while the other hung"
    assert sorted(read_s[HOST])[3] > 1.5, "three at once"
