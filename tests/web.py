"""TLS servers on loopback, with an authority of their own, and a canary that nobody may touch.

Takes what a server answers, byte for byte, by path. Knows nothing of who asks.
"""

import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

#: What a path answers: bytes, or what writes them.
Answer = bytes | Callable[[ssl.SSLSocket], None]

#: The uses a key can have, each of which must be said.
KEY_USES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


class Authority:
    """Signs certificates for names. Its own lies in `file`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"Authority of {folder.name}")])
        use = x509.KeyUsage(**dict.fromkeys(KEY_USES, False) | {"key_cert_sign": True})
        certificate = self._signed(self._name, self._key, (x509.BasicConstraints(ca=True, path_length=None), use))
        self.file = folder / "authority.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def context(self, *names: str, expired: bool = False) -> ssl.SSLContext:
        """Give what a server of these names proves itself with."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        certificate = self._signed(subject, key, (alternatives,), age_days=30 if expired else 1)
        file = self._folder / f"{names[0]}-{expired}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extensions: tuple[x509.ExtensionType, ...],
        *,
        age_days: int = 1,
    ) -> x509.Certificate:
        began = datetime.now(UTC) - timedelta(days=age_days)
        builder = (
            x509.CertificateBuilder(issuer_name=self._name, subject_name=subject, public_key=key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(began)
            .not_valid_after(began + timedelta(days=10))
        )
        identifiers = (
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
        )
        for extension in (*extensions, *identifiers):
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256())


#: A server whose threads end once it `is_over`.
Running = TypeVar("Running", bound=socketserver.BaseServer)


class Server(socketserver.ThreadingTCPServer):
    """A server on a free port of loopback; keeps what it was asked, and counts who came."""

    daemon_threads = True

    def __init__(self, answers: Mapping[str, Answer], context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.context = context
        self.is_over = threading.Event()
        self.start_over(answers)

    def start_over(self, answers: Mapping[str, Answer]) -> None:
        """Answer this, and forget who came."""
        self.answers = dict(answers)
        self.requests: list[str] = []
        self.num_hits = 0

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])


class _Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        self.server.num_hits += 1
        with suppress(OSError, EOFError):  # whoever asked went away, which is what some of them are here for
            if self.server.context is not None:
                self._answer(self.server.context)

    def _answer(self, context: ssl.SSLContext) -> None:
        self.request.settimeout(20)
        with context.wrap_socket(self.request, server_side=True) as connection:
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += connection.recv(65536) or _gone()
            self.server.requests.append(asked.decode())
            answer = self.server.answers.get(asked.decode().split(" ")[1], b"HTTP/1.1 404 Gone\r\n\r\n")
            if callable(answer):
                answer(connection)
            else:
                connection.sendall(answer)
                connection.unwrap()


def _gone() -> bytes:
    raise EOFError


@contextmanager
def serving(answers: Mapping[str, Answer], context: ssl.SSLContext) -> Iterator[Server]:
    """Run a server that proves itself with `context`."""
    yield from running(Server(answers, context))


@contextmanager
def canary() -> Iterator[Server]:
    """Run a server that says nothing and counts who came."""
    yield from running(Server({}, None))


def running(server: Running) -> Iterator[Running]:
    """Serve in a thread until the test is over."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.is_over.set()
            server.shutdown()
            thread.join()


def ok(body: bytes, *headers: str) -> bytes:
    """Give a whole answer with a body."""
    return answer(200, f"Content-Length: {len(body)}", *headers) + body


def answer(status: int, *headers: str) -> bytes:
    """Give an answer without a body."""
    return "\r\n".join((f"HTTP/1.1 {status} Whatever", *headers, "", "")).encode()


def redirect(location: str, status: int = 302) -> bytes:
    """Give an answer that leads elsewhere."""
    return answer(status, f"Location: {location}", "Content-Length: 0")
