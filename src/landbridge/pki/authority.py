"""A certificate authority kept in a directory: it creates itself, issues identities and signs requests."""

import datetime as dt
import os
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from landbridge.pki.identity import Identity, PeerName, TrustError

_AUTHORITY_LIFETIME = dt.timedelta(days=3650)
_IDENTITY_LIFETIME = dt.timedelta(days=825)
# Clocks of hosts differ; a certificate that starts a little in the past is valid on all of them.
_CLOCK_SKEW = dt.timedelta(hours=1)


def write_private(path: Path, data: bytes) -> None:
    """Write a secret so that no other user can read it at any moment, replacing what was there in one step."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _subject(common_name: str) -> x509.Name:
    # X.520 limits a common name to 64 characters; the full name stands in the alternative names.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


class Authority:
    """A certificate authority in `directory` (`ca.pem`, `ca.key`).

    Sign only what you checked: whoever holds a certificate of a site's authority is a component of that site.
    """

    def __init__(self, directory: Path) -> None:
        """Load the authority that `create` made; TrustError if there is none."""
        self.directory = directory
        try:
            self.certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
            key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), password=None)
        except (OSError, ValueError) as error:
            raise TrustError(f"no certificate authority in {directory}: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TrustError(f"the key of the authority in {directory} is not an elliptic curve key")
        self._key = key

    @classmethod
    def create(cls, directory: Path, name: str) -> "Authority":
        """Create an authority called `name`, or load the one that is there."""
        if (directory / "ca.pem").exists():
            return cls(directory)
        directory.mkdir(parents=True, exist_ok=True)
        key = _new_key()
        now = dt.datetime.now(dt.UTC)
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_subject(name))
            .issuer_name(_subject(name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + _AUTHORITY_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        # The certificate is written last: it marks the authority as complete.
        write_private(directory / "ca.key", _key_pem(key))
        (directory / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(directory)

    def issue(
        self,
        directory: Path,
        who: PeerName,
        *,
        dns: Sequence[str] = (),
        addresses: Iterable[str] = (),
    ) -> Identity:
        """Create a key and certificate for `who` in `directory` and return its identity.

        `dns` may hold wildcards (`*.vmotion.esx01`); `addresses` are IP addresses as text. An identity that is
        there already is replaced.
        """
        directory.mkdir(parents=True, exist_ok=True)
        key = _new_key()
        certificate = self._sign(key.public_key(), who, dns, addresses)
        return self._store(directory, key, certificate)

    def sign(
        self, request_pem: bytes, who: PeerName, *, dns: Sequence[str] = (), addresses: Iterable[str] = ()
    ) -> bytes:
        """Sign a PEM request for `who`; the names are the caller's, never those the request asks for.

        Returns the certificate as PEM. TrustError if the request is malformed or not signed by its own key.
        """
        try:
            request = x509.load_pem_x509_csr(request_pem)
        except ValueError as error:
            raise TrustError(f"not a certificate request: {error}") from error
        key = request.public_key()
        if not request.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise TrustError("the certificate request must hold an elliptic curve key and be signed by it")
        return self._sign(key, who, dns, addresses).public_bytes(serialization.Encoding.PEM)

    def _sign(
        self,
        public_key: ec.EllipticCurvePublicKey,
        who: PeerName,
        dns: Sequence[str],
        addresses: Iterable[str],
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns]
        names += [x509.IPAddress(ip_address(address)) for address in addresses]
        names.append(x509.UniformResourceIdentifier(who.uri()))
        return (
            x509.CertificateBuilder()
            .subject_name(_subject(who.name))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + _IDENTITY_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _store(self, directory: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> Identity:
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        write_private(directory / "key.pem", _key_pem(key))
        write_private(directory / "bundle.pem", pem + _key_pem(key))
        (directory / "ca.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        (directory / "cert.pem").write_bytes(pem)
        return Identity(directory)


def create_request(directory: Path, common_name: str) -> bytes:
    """Create `key.pem` in `directory` (or use the one there) and return a PEM certificate request for it.

    After signing, `Identity.install` completes the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "key.pem"
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TrustError(f"{path} is not an elliptic curve key")
    else:
        key = _new_key()
        write_private(path, _key_pem(key))
    request = x509.CertificateSigningRequestBuilder().subject_name(_subject(common_name))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
