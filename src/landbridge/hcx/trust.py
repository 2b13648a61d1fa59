"""Whom the manager trusts beyond its site: certificates a person looked at and accepted, pinned one by one."""

import asyncio
import hashlib
import ssl
from typing import ClassVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from landbridge.hcx.faults import ApiFault
from landbridge.hcx.store import Document, Store

_CONNECT_TIMEOUT = 10.0  # seconds


class TrustedCertificate(Document):
    """A certificate in PEM; its id is the SHA-256 of its DER form, in hex."""

    kind: ClassVar[str] = "certificate"
    pem: str


def parse(pem: str) -> TrustedCertificate:
    """A certificate as it is kept; ApiFault 400 if it is none."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise ApiFault(400, "Invalid certificate", f"`certificate` must be one certificate in PEM: {error}") from error
    der = certificate.public_bytes(serialization.Encoding.DER)
    return TrustedCertificate(id=hashlib.sha256(der).hexdigest(), pem=pem)


async def shown_by(url: str) -> str:
    """The certificate (PEM) of the server at `url`, trusted or not; nothing is said to that server.

    ApiFault 400 when the URL is not HTTPS, 502 when nobody answers there.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ApiFault(400, "Invalid URL", f"{url!r} is not the URL of an HCX manager: give https://name-or-address")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # this connection only asks who is there
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 443, ssl=context)
    except (OSError, TimeoutError) as error:
        raise ApiFault(502, "Connection failure", f"{url} does not answer: {error or 'timeout'}") from error
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()
    return ssl.DER_cert_to_PEM_cert(der)


async def pinned(store: Store, url: str) -> str:
    """The fingerprint to pin for `url`. If its certificate was not accepted yet, an ApiFault carries it.

    HCX answers that with status 200, the certificate in `errors[0].data[0].certificate`; the client posts it to
    /hybridity/api/admin/certificates and asks again (terraform-provider-hcx, resource_site_pairing.go).
    """
    shown = parse(await shown_by(url))
    if await store.get(TrustedCertificate, shown.id) is None:
        fingerprint = ":".join(shown.id[i : i + 2].upper() for i in range(0, len(shown.id), 2))
        raise ApiFault(
            200,
            "Certificate not trusted",
            f"{url} shows a certificate nobody accepted yet (SHA-256 {fingerprint}): compare it there, then import it",
            [{"certificate": shown.pem, "sha256": fingerprint}],
        )
    return shown.id
