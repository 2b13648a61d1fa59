"""What a component holds to prove who it is, and how it learns who the other end is."""

import hashlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

_SCHEME = "landbridge"


class TrustError(Exception):
    """A certificate, key or peer is not what it must be."""


@dataclass(frozen=True)
class PeerName:
    """Who a certificate was issued to: a component of `role` (`esx`, `vcenter`, `hcx`, `ix`) at `site`."""

    site: str
    role: str
    name: str

    def uri(self) -> str:
        """The form it has in a certificate's alternative names: `landbridge://site/role/name`."""
        return f"{_SCHEME}://{quote(self.site, safe='')}/{quote(self.role, safe='')}/{quote(self.name, safe='')}"

    @classmethod
    def from_uri(cls, uri: str) -> "PeerName":
        """Parse `uri()`'s result; TrustError if it is not one."""
        parts = urlsplit(uri)
        path = parts.path.split("/")
        if parts.scheme != _SCHEME or len(path) != 3:
            raise TrustError(f"{uri!r} does not name a landbridge component")
        return cls(unquote(parts.netloc), unquote(path[1]), unquote(path[2]))


class Identity:
    """A directory: `ca.pem`, `cert.pem`, `key.pem`, and for HAProxy `bundle.pem` (certificate and key)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = directory / "ca.pem"
        self.certificate = directory / "cert.pem"
        self.key = directory / "key.pem"
        self.bundle = directory / "bundle.pem"

    @classmethod
    def install(cls, directory: Path, certificate_pem: bytes, ca_pem: bytes) -> "Identity":
        """Complete what `create_request` began with the signed certificate and its authority's."""
        identity = cls(directory)
        key = identity.key.read_bytes()
        identity.ca.write_bytes(ca_pem)
        identity.certificate.write_bytes(certificate_pem)
        descriptor = os.open(identity.bundle, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(certificate_pem + key)
        return identity

    def server_context(self, *, require_client: bool) -> ssl.SSLContext:
        """TLS for a listener. `require_client`: only holders of a certificate of our own authority get in."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_3 if require_client else ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        if require_client:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self) -> ssl.SSLContext:
        """TLS for connecting to a component of the same authority, our own certificate shown."""
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.certificate, self.key)
        return context

    def thumbprint(self) -> str:
        """SHA-256 of the certificate as vSphere shows it: `AB:CD:...`."""
        der = ssl.PEM_cert_to_DER_cert(self.certificate.read_text())
        digest = hashlib.sha256(der).hexdigest().upper()
        return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


def peer_name(connection: ssl.SSLObject | ssl.SSLSocket) -> PeerName:
    """Who is at the other end of an established mutual TLS connection; TrustError if it does not say."""
    certificate = connection.getpeercert() or {}
    for name in certificate.get("subjectAltName", ()):
        if name[0] == "URI" and isinstance(name[1], str):
            return PeerName.from_uri(name[1])
    raise TrustError("the peer's certificate does not name a landbridge component")
