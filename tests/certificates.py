"""A certificate authority of the tests' own, and servers' certificates that it signs.

Takes a folder. Gives PEM files in it. Knows nothing of who uses them.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """An authority that signs; `file` is what its clients trust."""

    folder: Path
    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    file: Path

    def sign(self, host: str) -> Path:
        """Make a key and a certificate for a host, by name or by address; gives the file that holds both."""
        key = ec.generate_private_key(ec.SECP256R1())
        named = x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
        draft = _draft(_name(host), self.name, key).add_extension(x509.SubjectAlternativeName([named]), critical=False)
        file = self.folder / f"{host}.pem"
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(secret + draft.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return file


def authority(folder: Path) -> Authority:
    """Found an authority."""
    folder.mkdir()
    key, name = ec.generate_private_key(ec.SECP256R1()), _name("authority of the tests")
    draft = _draft(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    file = folder / "authority.pem"
    file.write_bytes(draft.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return Authority(folder=folder, name=name, key=key, file=file)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _draft(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
