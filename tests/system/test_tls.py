"""Redis and PostgreSQL over TLS: a whole mill works with it, and nobody talks to who cannot prove their name."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from sqlalchemy import select

from db import errors, session
from tests import certificates, servers
from tests.mills import Mill, open_mill
from tests.tunnels import tunnel
from worker import messages
from worker.client import BrokerUnreachable, Client

PASSWORD = "canary-of-the-broker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Servers that are reached over TLS alone, by the name `localhost`."""

    authority: certificates.Authority
    redis_port: int
    postgres_port: int

    def broker_url(self, *, host: str = "localhost", scheme: str = "rediss", ca: Path | None = None) -> str:
        trusts = f"?ssl_ca_certs={ca or self.authority.file}" if scheme == "rediss" else ""
        return f"{scheme}://:{PASSWORD}@{host}:{self.redis_port}/0{trusts}"

    def database_url(self, *, host: str = "localhost", sslmode: str = "verify-full", ca: Path | None = None) -> str:
        trusts = f"?sslmode={sslmode}&sslrootcert={ca or self.authority.file}"
        return f"postgresql+psycopg://imagemill@{host}:{self.postgres_port}/secured{trusts}"


@pytest.fixture(scope="module")
def site(postgres: servers.Postgres) -> Iterator[Site]:
    """A Redis with a password and a PostgreSQL, each behind a certificate for `localhost`."""
    home = Path(tempfile.mkdtemp(prefix="im-tls-"))
    authority = certificates.authority(home / "authority")
    certificate = authority.sign("localhost")
    postgres.execute("CREATE DATABASE secured")
    with (
        servers.redis() as plain,
        tunnel(certificate, socket_of(plain)) as redis_port,
        tunnel(certificate, postgres.folder / ".s.PGSQL.5432", is_postgres=True) as postgres_port,
    ):
        with redis.Redis(unix_socket_path=str(socket_of(plain))) as owner:
            owner.config_set("requirepass", PASSWORD)
        yield Site(authority=authority, redis_port=redis_port, postgres_port=postgres_port)
    postgres.execute("DROP DATABASE secured WITH (FORCE)")
    shutil.rmtree(home, ignore_errors=True)


def socket_of(broker_url: str) -> Path:
    return Path(broker_url.removeprefix("redis+socket://"))


@pytest.fixture
def stranger(site: Site, tmp_path: Path) -> Path:
    """The certificate of an authority that signed nothing of the site's."""
    return certificates.authority(tmp_path / "other").file


def test_a_whole_mill_works_over_tls(site: Site, home: Path) -> None:
    with open_mill(home, broker_url=site.broker_url(), database_url=site.database_url()) as mill:
        references = mill.write_images(5, prefix="tls")
        results = mill.client.classify(references, model="tiny", timeout_s=60.0)
        assert [result.reference for result in results] == references
        assert all(result.label for result in results)
        receipt = mill.client.submit(references, model="tiny")
        assert mill.client.wait(receipt.job_id, timeout_s=60.0).num_succeeded == 5
        assert is_encrypted(mill)
    said = "".join(log.read_text(errors="replace") for log in mill.stack.logs.glob("*.log"))
    assert "Connected to rediss://" in said
    assert PASSWORD not in said


def is_encrypted(mill: Mill) -> bool:
    """Whether the ledger's own connection is: by the driver, for the server sees the tunnel."""
    with session.reading(mill.sessions) as reading:
        reading.execute(select(1))
        driver = reading.connection().connection.driver_connection
        return bool(driver.pgconn.ssl_in_use)


REFUSED: dict[str, Callable[[Site, Path], str]] = {
    "another authority": lambda site, stranger: site.broker_url(ca=stranger),
    "another host name": lambda site, _: site.broker_url(host="127.0.0.1"),
    "no TLS": lambda site, _: site.broker_url(scheme="redis"),
}


@pytest.mark.parametrize("url", REFUSED.values(), ids=REFUSED)
def test_a_broker_that_cannot_prove_its_name_is_one_sentence(
    site: Site, stranger: Path, url: Callable[[Site, Path], str]
) -> None:
    with Client(url(site, stranger), timeout_s=5.0) as client:
        for ask in (client.ping, lambda: client.submit(["s3://photos/1.jpg"])):
            with pytest.raises(BrokerUnreachable) as refused:
                ask()
            said = str(refused.value)
            assert said.startswith("No Redis answers at ")
            assert "\n" not in said
            assert PASSWORD not in said


def test_a_broker_over_tls_must_prove_its_name_unless_the_url_says_otherwise(site: Site) -> None:
    untrusted = f"rediss://:{PASSWORD}@localhost:{site.redis_port}/0"
    assert messages.check_broker_url(untrusted).endswith("?ssl_cert_reqs=required")
    with Client(untrusted) as client, pytest.raises(BrokerUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
        client.ping()
    with Client(f"{untrusted}?ssl_cert_reqs=none") as client:
        client.ping()


REFUSED_LEDGERS: dict[str, Callable[[Site, Path], str]] = {
    "another authority": lambda site, stranger: site.database_url(ca=stranger),
    "another host name": lambda site, _: site.database_url(host="127.0.0.1"),
    "no TLS": lambda site, _: site.database_url(sslmode="disable"),
}


@pytest.mark.parametrize("url", REFUSED_LEDGERS.values(), ids=REFUSED_LEDGERS)
def test_a_ledger_that_cannot_prove_its_name_is_one_sentence(
    site: Site, stranger: Path, url: Callable[[Site, Path], str]
) -> None:
    sessions = session.connect(url(site, stranger))
    with pytest.raises(errors.LedgerUnreachable) as refused, session.reading(sessions) as reading:
        reading.execute(select(1))
    assert str(refused.value).startswith("Cannot reach the ledger at ")
    assert "\n" not in str(refused.value)
    session.engine_of(sessions).dispose()
