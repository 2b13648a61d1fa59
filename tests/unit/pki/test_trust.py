"""Certificates: who may talk to whom, and what stays private."""

import asyncio
import contextlib
import hashlib
import ssl
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from landbridge.pki import Authority, Identity, PeerName, TrustError, create_request
from landbridge.pki.http import allow_roles, caller

HOST = PeerName("onprem", "esx", "esx01.onprem")
VCENTER = PeerName("onprem", "vcenter", "vcenter.onprem")


def issue(directory: Path, who: PeerName, authority: str = "onprem") -> Identity:
    ca = Authority.create(directory / f"ca-{authority}", f"{authority} authority")
    return ca.issue(directory / f"{authority}-{who.name}", who, dns=["localhost"], addresses=["127.0.0.1"])


@contextlib.asynccontextmanager
async def serve(identity: Identity, *roles: str) -> AsyncIterator[str]:
    """A server that lets in `roles` of site onprem and answers who called."""

    async def whoami(request: web.Request) -> web.Response:
        return web.json_response({"caller": caller(request).uri()})

    app = web.Application(middlewares=[allow_roles("onprem", *roles)])
    app.router.add_get("/", whoami)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=identity.server_context(require_client=True))
    await site.start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def get(url: str, tls: ssl.SSLContext) -> tuple[int, str]:
    async with aiohttp.ClientSession(trust_env=False) as session, session.get(url, ssl=tls) as response:
        return response.status, await response.text()


def test_private_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    identity = issue(tmp_path, HOST)
    for secret in (identity.key, identity.bundle, tmp_path / "ca-onprem" / "ca.key"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_an_authority_is_found_again_and_still_signs_for_those_who_trust_it(tmp_path: Path) -> None:
    first = Authority.create(tmp_path / "ca", "site authority")
    again = Authority.create(tmp_path / "ca", "another name")
    assert again.certificate == first.certificate


def test_a_directory_without_an_authority_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="no certificate authority"):
        Authority(tmp_path)


def test_a_peer_name_survives_its_uri() -> None:
    who = PeerName("on prem", "esx", "esx01/ä")
    assert PeerName.from_uri(who.uri()) == who


@pytest.mark.parametrize("uri", ["https://onprem/esx/esx01", "landbridge://onprem/esx", "landbridge:esx"])
def test_a_uri_that_names_no_component_is_refused(uri: str) -> None:
    with pytest.raises(TrustError):
        PeerName.from_uri(uri)


async def test_a_server_knows_its_caller_by_certificate(tmp_path: Path) -> None:
    async with serve(issue(tmp_path, HOST), "vcenter") as url:
        status, text = await get(url, issue(tmp_path, VCENTER).client_context())
    assert status == 200
    assert VCENTER.uri() in text


async def test_a_role_that_has_no_business_is_turned_away(tmp_path: Path) -> None:
    async with serve(issue(tmp_path, HOST), "vcenter") as url:
        status, text = await get(url, issue(tmp_path, PeerName("onprem", "hcx", "hcx")).client_context())
    assert status == 403
    assert "no business" in text


async def test_a_certificate_of_another_authority_does_not_get_in(tmp_path: Path) -> None:
    server = issue(tmp_path, HOST)
    stranger = issue(tmp_path, VCENTER, authority="elsewhere")
    tls = ssl.create_default_context(cafile=str(server.ca))
    tls.load_cert_chain(stranger.certificate, stranger.key)
    async with serve(server, "vcenter") as url:
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await get(url, tls)


async def test_a_caller_without_a_certificate_does_not_get_in(tmp_path: Path) -> None:
    server = issue(tmp_path, HOST)
    async with serve(server, "vcenter") as url:
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await get(url, ssl.create_default_context(cafile=str(server.ca)))


async def test_a_client_refuses_a_server_of_another_authority(tmp_path: Path) -> None:
    async with serve(issue(tmp_path, HOST, authority="elsewhere"), "vcenter") as url:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await get(url, issue(tmp_path, VCENTER).client_context())


async def test_a_request_signed_by_the_authority_becomes_an_identity(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "pair", "pair authority")
    request = create_request(tmp_path / "ix", "ix.onprem")
    who = PeerName("onprem", "vcenter", "ix.onprem")
    certificate = authority.sign(request, who, dns=["localhost"], addresses=["127.0.0.1"])
    ca = (tmp_path / "pair" / "ca.pem").read_bytes()
    identity = Identity.install(tmp_path / "ix", certificate, ca)
    async with serve(identity, "vcenter") as url:
        status, text = await get(url, identity.client_context())
    assert (status, who.uri() in text) == (200, True)
    assert stat.S_IMODE(identity.bundle.stat().st_mode) == 0o600


def test_a_malformed_request_is_not_signed(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="not a certificate request"):
        Authority.create(tmp_path, "pair").sign(b"hello", HOST)


async def test_the_thumbprint_is_that_of_the_certificate_on_the_wire(tmp_path: Path) -> None:
    server = issue(tmp_path, HOST)
    client = issue(tmp_path, VCENTER)
    async with serve(server, "vcenter") as url:
        port = int(url.rsplit(":", 1)[1].strip("/"))
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client.client_context())
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
    assert server.thumbprint().replace(":", "").lower() == hashlib.sha256(der).hexdigest()
