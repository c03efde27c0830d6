"""Takes an https:// reference, the https:// roots, and how large the file may be, or what to post.

Gives what its server answers, or the one sentence that says why not.
Knows nothing of images. Who names a URL must not make this machine talk to what only this machine can reach: each
address is checked and then itself connected to, and a redirect goes through all of it again.
"""

from __future__ import annotations

import functools
import http.client
import io
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, TypeVar
from urllib.parse import unquote, urljoin

from pipeline.errors import ItemUnfetchable
from pipeline.hosts import Hosts

SCHEME = "https"
#: the root that allows every public host, on port 443
ANY_HOST = "https://*"
PORT = 443
#: seconds for one image, from the first name that is looked up to the last byte, over all redirects
TOTAL_S = 10.0
#: seconds for one of a host's addresses to take the connection
CONNECT_S = 3.0
MAX_REDIRECTS = 3
REDIRECTS = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.FOUND, HTTPStatus.SEE_OTHER,
        HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT,
    }
)  # fmt: skip
#: bytes of an answer beside the file: headers, and the sizes of chunks
FRAME_BYTES = 1 << 20
#: bytes of a posted body's answer that are read at most; nobody looks at them
MAX_REPLY = 1 << 16
#: bytes read at once
CHUNK_BYTES = 1 << 16

#: what a URL may be made of: visible ASCII without quotes, angle brackets, backslash and other marks that readers of
#: URLs disagree on; neither spaces nor line ends, which would go on into the request
PLAIN = re.compile(r"[!#$%&'()*+,\-./0-9:;=?@A-Za-z_~\[\]]+")
URL = re.compile(r"https://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?:#.*)?")
#: a DNS name of two labels or more. Its last one begins with a letter, as every domain does and no number: 127.1,
#: 0x7f.0.0.1 and 2130706433 are addresses to most resolvers.
LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
HOST = re.compile(rf"(?=.{{4,253}}\Z)(?:{LABEL}\.)+(?=[a-z]){LABEL}")
AUTHORITY = re.compile(r"(?P<host>[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?")

#: IPv6 is allowed where addresses are given out to hosts, and nowhere else: this leaves out ::1, IPv4-mapped, NAT64
#: (64:ff9b::/96, 64:ff9b:1::/48), private, link-local, site-local and multicast ones.
UNICAST_V6 = ip_network("2000::/3")
Answer = TypeVar("Answer")

#: inside it or inside IPv4, what is not one host of the public network. Not left to `is_global` alone: up to Python
#: 3.11.9 it takes several of these for public (CVE-2024-4032).
SPECIAL = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        "2001::/23",      # protocols: Teredo (2001::/32) among them, which holds an IPv4 address
        "2001:db8::/32",  # documentation
        "2002::/16",      # 6to4, which holds an IPv4 address
        "3fff::/20",      # documentation
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a server says to what was posted to it."""

    status: int
    #: the header, as it came
    retry_after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a URL points."""

    host: str
    port: int
    #: begins with a slash
    path: str
    #: begins with a question mark, or is empty
    query: str = ""

    @property
    def authority(self) -> str:
        """The host, and its port if that is not 443."""
        return self.host if self.port == PORT else f"{self.host}:{self.port}"

    @property
    def name(self) -> str:
        """The URL without its query, as it is compared with roots."""
        return f"{SCHEME}://{self.authority}{self.path}"


def is_url(reference: str) -> bool:
    """Say whether a reference is read here."""
    return reference.startswith(f"{SCHEME}://")


def host_of(reference: str) -> str | None:
    """Give the host that a reference leads to first; None if it is read elsewhere, or leads nowhere."""
    try:
        return _place(reference).host if is_url(reference) else None
    except ItemUnfetchable:
        return None


def root(text: str) -> str:
    """Read a root: https://*, or a host with perhaps a port and a folder. Raise ValueError."""
    if text.rstrip("/") == ANY_HOST:
        return ANY_HOST
    try:
        return _place(text).name.rstrip("/")
    except ItemUnfetchable as wrong:
        raise ValueError(
            f"The root {text!r} must be https://HOST, perhaps with a folder, or {ANY_HOST}. {wrong}"
        ) from None


def fetch(url: str, roots: Sequence[str], *, max_bytes: int) -> bytes:
    """Read what the server of `url` answers, `max_bytes` at most; raise ItemUnfetchable."""
    give_up_s = time.monotonic() + TOTAL_S
    try:
        for _ in range(1 + MAX_REDIRECTS):
            place = _allowed(url, roots)
            with _hosts().asking(place.host):
                found = _ask(place, give_up_s, max_bytes)
            if isinstance(found, bytes):
                return found
            url = _redirected(url, found)
    except TimeoutError as error:
        raise ItemUnfetchable("timed_out", f"The server did not answer within {TOTAL_S:.0f} seconds.") from error
    raise ItemUnfetchable("too_many_redirects", f"The server redirects more than {MAX_REDIRECTS} times.")


def post(url: str, roots: Sequence[str], body: bytes, headers: Mapping[str, str], *, within_s: float) -> Reply:
    """Post to the server of `url` and give its answer, a redirect among them; raise ItemUnfetchable."""
    give_up_s = time.monotonic() + within_s
    place = _allowed(url, roots)
    question = _question("POST", place, {**headers, "Content-Length": str(len(body))}) + body
    try:
        return _exchange(place, question, give_up_s, MAX_REPLY, _reply)
    except TimeoutError as error:
        raise ItemUnfetchable("timed_out", f"The server did not answer within {within_s:.0f} seconds.") from error


def allowed_host(url: str, roots: Sequence[str]) -> str:
    """Name the host of a URL that lies under a root, with its port if that is not 443; raise ItemUnfetchable."""
    return _allowed(url, roots).authority


# ---------------------------------------------------------------- names


def _allowed(url: str, roots: Sequence[str]) -> Place:
    place = _place(url)
    # Decoded as well, because the server may decode `%2e%2e` after us, and may take a backslash for a slash.
    parts = {*place.path.split("/"), *re.split(r"[/\\]", unquote(place.path))}
    is_under = any(place.name == root or place.name.startswith(f"{root}/") for root in roots)
    if parts & {".", ".."} or not (is_under or (ANY_HOST in roots and place.port == PORT)):
        raise ItemUnfetchable(
            "outside_roots", "The URL, or what it redirects to, is outside the allowed roots (IMAGEMILL_ALLOWED_ROOTS)."
        )
    return place


def _place(url: str) -> Place:
    if not PLAIN.fullmatch(url):
        raise _invalid("A URL holds visible ASCII characters alone; write others as %XX")
    found = URL.fullmatch(url)
    if found is None:
        raise ItemUnfetchable("unsupported_scheme", "The URL, or what it redirects to, is not an https:// one.")
    host, port = _host(found["authority"])
    return Place(host=host, port=port, path=found["path"] or "/", query=found["query"] or "")


def _host(authority: str) -> tuple[str, int]:
    if "@" in authority:
        raise _invalid("A URL must not hold a user or a password")
    found = AUTHORITY.fullmatch(authority)
    host = found["host"].lower() if found else ""
    if found is None or not HOST.fullmatch(host):
        raise _invalid("A URL names its host by its full DNS name, not by an address or a local name")
    port = int(found["port"] or PORT)
    if not 0 < port < 1 << 16:
        raise _invalid("The URL names a port that does not exist")
    return host, port


def _redirected(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise _invalid("The server redirects to what is no URL") from error


def _invalid(fact: str) -> ItemUnfetchable:
    return ItemUnfetchable("invalid_url", f"{fact}.")


# ---------------------------------------------------------------- addresses


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Say whether an address is that of one host on the public network."""
    if address.version == 6 and address not in UNICAST_V6:
        return False
    return address.is_global and not any(address in network for network in SPECIAL)


def _addresses(place: Place, give_up_s: float) -> list[tuple[int, Any]]:
    """Look a host up once; give (family, socket address) of each of its addresses, if all of them are public."""
    found = _looked_up(place, give_up_s)
    # A name with a public and a private address is nobody's image server.
    if not found or not all(is_public(ip_address(address[0])) for _, address in found):
        raise ItemUnfetchable("forbidden_address", "The URL, or what it redirects to, does not lead to a public host.")
    return found


def _looked_up(place: Place, give_up_s: float) -> list[tuple[int, Any]]:
    answers: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM))
        except OSError as error:
            answers.put(error)

    # The resolver takes no timeout: a name server that is slow keeps this thread, which ends by itself, and not ours.
    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=_left(give_up_s))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, OSError):
        raise _unreachable() from answer
    return [(family, address) for family, _, _, _, address in answer]


def _connected(place: Place, give_up_s: float) -> socket.socket:
    """Connect to the addresses that were checked, never to the name: a second look-up could say something else."""
    last: OSError | None = None
    for family, address in _addresses(place, give_up_s):
        try:
            return _connection(family, address, min(CONNECT_S, _left(give_up_s)))
        except OSError as error:  # the next one may answer
            last = error
    _left(give_up_s)
    raise _unreachable() from last


def _connection(family: int, address: Any, timeout_s: float) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def _unreachable() -> ItemUnfetchable:
    return ItemUnfetchable("unreachable", "The server of the URL cannot be reached.")


# ---------------------------------------------------------------- one question


def _ask(place: Place, give_up_s: float, max_bytes: int) -> bytes | str:
    """Give the answer's body, or where it redirects to."""
    question = _question("GET", place, {"Accept": "image/*", "Accept-Encoding": "identity"})
    return _exchange(place, question, give_up_s, max_bytes, functools.partial(_answer, max_bytes=max_bytes))


def _exchange(
    place: Place, question: bytes, give_up_s: float, max_bytes: int, read: Callable[[_Dripping], Answer]
) -> Answer:
    with _connected(place, give_up_s) as connection, _proved(connection, place, give_up_s) as proved:
        try:
            proved.settimeout(_left(give_up_s))
            proved.sendall(question)
            return read(_Dripping(proved, give_up_s, max_bytes))
        except TimeoutError:
            raise
        # A ValueError is what http.client says to a chunk of -5 bytes.
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ItemUnfetchable("truncated", "The server ended its answer early, or it makes no sense.") from error


def _proved(connection: socket.socket, place: Place, give_up_s: float) -> ssl.SSLSocket:
    """Let the server prove that it is the host of the URL."""
    connection.settimeout(_left(give_up_s))
    try:
        # The end of a body without a length is then an error, unless the server itself said so.
        return _context().wrap_socket(connection, server_hostname=place.host, suppress_ragged_eofs=False)
    except ssl.SSLCertVerificationError as error:
        raise ItemUnfetchable(
            "untrusted_host", f"The server does not prove that it is {place.host}: {error.verify_message}."
        ) from error
    except TimeoutError:
        raise
    except OSError as error:
        raise _unreachable() from error


@functools.cache
def _hosts() -> Hosts:
    return Hosts()


@functools.cache
def _context() -> ssl.SSLContext:
    # Reading the system's authorities takes longer than a small image does.
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _question(method: str, place: Place, headers: Mapping[str, str]) -> bytes:
    lines = (
        f"{method} {place.path}{place.query} HTTP/1.1",
        f"Host: {place.authority}",
        "User-Agent: imagemill",
        *(f"{name}: {value}" for name, value in headers.items()),
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii")


def _reply(dripping: _Dripping) -> Reply:
    with http.client.HTTPResponse(dripping, method="POST") as response:  # type: ignore[arg-type]
        response.begin()
        return Reply(status=response.status, retry_after=response.headers.get("Retry-After", ""))


def _answer(dripping: _Dripping, max_bytes: int) -> bytes | str:
    with http.client.HTTPResponse(dripping, method="GET") as response:  # type: ignore[arg-type]
        response.begin()
        if response.status in REDIRECTS:
            return response.headers.get("Location", "")
        if response.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            raise ItemUnfetchable("missing", "The server has no such file.")
        if response.status != HTTPStatus.OK:
            raise ItemUnfetchable("unreadable", f"The server did not give it: it answered {response.status}.")
        # What was not asked for is not unpacked: a few kilobytes could become gigabytes.
        if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise ItemUnfetchable("unreadable", "The server sent it compressed, which was not asked for.")
        return _body(response, max_bytes)


def _body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    if (response.length or 0) > max_bytes:
        raise _too_large(max_bytes)
    chunks, room = [], max_bytes
    while chunk := response.read(CHUNK_BYTES):
        chunks.append(chunk)
        room -= len(chunk)
        if room < 0:
            raise _too_large(max_bytes)
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(chunks)


def _too_large(max_bytes: int) -> ItemUnfetchable:
    return ItemUnfetchable("too_large", f"The file is larger than the limit of {max_bytes} bytes.")


class _Dripping(io.RawIOBase):
    """A connection that is read until a moment, however slowly it drips, and no further than a file can reach.

    A timeout of its own bounds one read alone, and http.client reads some answers whole (a chunk of -1 bytes).
    """

    def __init__(self, connection: ssl.SSLSocket, give_up_s: float, max_bytes: int) -> None:
        self._connection = connection
        self._give_up_s = give_up_s
        self._max_bytes = max_bytes
        self._room = max_bytes + FRAME_BYTES

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Be a socket to http.client, which asks nothing else of one."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(_left(self._give_up_s))
        num_bytes = self._connection.recv_into(buffer)
        self._room -= num_bytes
        if self._room < 0:
            raise _too_large(self._max_bytes)
        return num_bytes


def _left(give_up_s: float) -> float:
    left_s = give_up_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
