"""Files of a datastore over HTTPS `/folder`: up, down and away, through vCenter and a host's agent."""

import base64
import os
import ssl
from http.client import HTTPResponse, HTTPSConnection
from urllib.parse import quote

import pytest

from .site import PASSWORD, USER, Site


def request(site: Site, method: str, path: str, body: bytes | None = None, **query: str) -> HTTPResponse:
    """One request with user name and password; the answer is read with its connection still open."""
    context = ssl.create_default_context(cafile=str(site.vcenter.ca))
    connection = HTTPSConnection(site.vcenter.address, 443, context=context, timeout=60)
    arguments = {"dcPath": site.datacenter.name, "dsName": site.datastore(0).name, **query}
    target = f"/folder/{quote(path)}?" + "&".join(f"{name}={quote(value)}" for name, value in arguments.items())
    basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    connection.request(method, target, body, {"Authorization": f"Basic {basic}"})
    return connection.getresponse()


def make_folder(site: Site, name: str) -> None:
    path = f"[{site.datastore(0).name}] {name}"
    site.vcenter.content.fileManager.MakeDirectory(path, site.datacenter, True)


def test_a_file_goes_up_and_comes_down_the_same(site: Site) -> None:
    make_folder(site, "images")
    name, content = "images/tiny ü.iso", os.urandom(3 * (1 << 20) + 17)
    assert request(site, "PUT", name, content).status == 201
    head = request(site, "HEAD", name)
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(content)))
    down = request(site, "GET", name)
    assert (down.status, down.read() == content) == (200, True)
    assert request(site, "PUT", name, b"shorter").status == 201
    assert request(site, "GET", name).read() == b"shorter"
    assert request(site, "DELETE", name).status == 204
    assert request(site, "GET", name).status == 404
    assert request(site, "DELETE", name).status == 404


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/", "a\x00b"])
def test_a_path_that_leaves_the_datastore_is_refused(site: Site, path: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        assert request(site, method, path, b"x" if method == "PUT" else None).status == 400


def test_a_folder_is_no_file_and_is_not_made_by_the_way(site: Site) -> None:
    assert request(site, "PUT", "folder/file", b"x").status == 404
    make_folder(site, "folder")
    assert request(site, "PUT", "folder/file", b"x").status == 201
    assert request(site, "GET", "folder").status == 404


def test_the_datacenter_must_be_the_right_one(site: Site) -> None:
    assert request(site, "GET", "a", dcPath="elsewhere").status == 404


def test_a_disk_in_use_is_not_overwritten_or_deleted(site: Site) -> None:
    vm = site.create()
    disk = next(file.name for file in vm.layoutEx.file if file.name.endswith(".vmdk"))
    path = disk.partition("] ")[2]
    answer = request(site, "DELETE", path)
    assert answer.status in (409, 400), answer.read()
    assert request(site, "HEAD", path).status == 200
