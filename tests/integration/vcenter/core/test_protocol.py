"""The HTTPS listener against stock, broken and hostile clients."""

import gzip
import re
import threading
import time
from typing import Any

import pytest
from pyVmomi import SoapAdapter, vim, vmodl

from tests.integration.vcenter.core.vcenter_process import ADMINISTRATOR, READER, VcenterProcess

ENVELOPE = (
    '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>{}'
    "</soapenv:Body></soapenv:Envelope>"
)
CONTENT = ENVELOPE.format(
    '<RetrieveServiceContent xmlns="urn:vim25"><_this type="ServiceInstance">ServiceInstance</_this>'
    "</RetrieveServiceContent>"
)


def post(vcenter: VcenterProcess, body: str | bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = vcenter.http()
    connection.request("POST", "/sdk", body if isinstance(body, bytes) else body.encode(), headers)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def fault_of(answer: tuple[int, dict[str, str], bytes]) -> Any:
    assert answer[0] in (500, 413), answer
    return SoapAdapter.SoapResponseDeserializer(None).Deserialize(answer[2], object)


def test_a_stock_client_logs_in_and_reads_who_it_talks_to(vcenter: VcenterProcess, si: Any) -> None:
    about = si.content.about
    assert (about.apiType, about.apiVersion) == ("VirtualCenter", "8.0.3.0")
    assert abs(si.CurrentTime().timestamp() - time.time()) < 60
    assert si.content.sessionManager.currentSession.userName == "VSPHERE.LOCAL\\administrator"
    assert si._stub.versionId == '"urn:vim25/8.0.3.0"'


def test_health_is_answered_without_a_login(vcenter: VcenterProcess) -> None:
    connection = vcenter.http()
    connection.request("GET", "/healthz")
    assert b'"status": "ok"' in connection.getresponse().read()


def test_an_older_client_does_not_get_newer_fields(vcenter: VcenterProcess) -> None:
    status, _, body = post(vcenter, CONTENT, SOAPAction='"urn:vim25/2.5"')
    assert status == 200
    assert b"<rootFolder" in body
    assert b"<viewManager" in body
    assert b"instanceUuid" not in body


def test_large_answers_are_compressed_for_who_asks(vcenter: VcenterProcess) -> None:
    plain = post(vcenter, CONTENT)
    packed = post(vcenter, CONTENT, **{"Accept-Encoding": "gzip"})
    assert packed[1]["content-encoding"] == "gzip"
    assert gzip.decompress(packed[2]) == plain[2]


def test_the_cookie_is_quoted_and_not_for_scripts(vcenter: VcenterProcess) -> None:
    login = ENVELOPE.format(
        '<Login xmlns="urn:vim25"><_this type="SessionManager">SessionManager</_this>'
        f"<userName>{ADMINISTRATOR[0]}</userName><password>{ADMINISTRATOR[1]}</password></Login>"
    )
    _, headers, _ = post(vcenter, login)
    cookie = headers["set-cookie"]
    assert re.match(r'vmware_soap_session="[0-9a-f]{40}"; Path=/; HttpOnly; Secure', cookie)
    # Sent back attributes and all, as pyVmomi does.
    logout = ENVELOPE.format('<Logout xmlns="urn:vim25"><_this type="SessionManager">SessionManager</_this></Logout>')
    assert post(vcenter, logout, Cookie=cookie)[0] == 200
    assert isinstance(fault_of(post(vcenter, logout, Cookie=cookie)), vim.fault.NotAuthenticated)


@pytest.mark.parametrize("body", ["", "nonsense", "<a>", CONTENT[:-9], ENVELOPE.format("")])
def test_a_malformed_request_is_a_fault_and_the_connection_goes_on(vcenter: VcenterProcess, body: str) -> None:
    connection = vcenter.http()
    connection.request("POST", "/sdk", body.encode())
    answer = connection.getresponse()
    fault = fault_of((answer.status, {}, answer.read()))
    assert isinstance(fault, vmodl.fault.InvalidRequest)
    connection.request("POST", "/sdk", CONTENT.encode())
    assert connection.getresponse().status == 200


@pytest.mark.parametrize(
    "prolog",
    [
        '<!DOCTYPE lolz [<!ENTITY a "lol">' + "".join(
            f'<!ENTITY {after} "{f"&{before};" * 10}">' for before, after in zip("abcdefghi", "bcdefghij", strict=True)
        ) + "]>",
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "http://127.0.0.1:9/">]>',
    ],
)  # fmt: skip
def test_bombs_and_external_entities_are_refused(vcenter: VcenterProcess, prolog: str) -> None:
    fault = fault_of(post(vcenter, prolog + CONTENT.replace("ServiceInstance</_this>", "&a;</_this>")))
    assert isinstance(fault, vmodl.fault.InvalidRequest)
    assert "document type" in fault.msg
    assert "root:" not in fault.msg


def test_a_huge_body_is_refused_while_others_are_served(vcenter: VcenterProcess) -> None:
    size = 100 << 20
    connection = vcenter.http()
    connection.putrequest("POST", "/sdk")
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    # Nothing of the body was sent, and the answer is there.
    answer = connection.getresponse()
    assert isinstance(fault_of((answer.status, {}, answer.read())), vmodl.fault.InvalidRequest)
    assert post(vcenter, CONTENT)[0] == 200


def test_a_huge_body_without_a_length_is_refused_too(vcenter: VcenterProcess) -> None:
    chunk = b"x" * (1 << 20)
    connection = vcenter.http()
    sent = 0

    def endless() -> Any:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield chunk

    try:
        connection.request("POST", "/sdk", endless(), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
        assert connection.getresponse().status == 413
    except OSError:
        assert sent < 100  # closed before all was sent
    assert post(vcenter, CONTENT)[0] == 200


def test_a_compressed_bomb_is_refused(vcenter: VcenterProcess) -> None:
    bomb = gzip.compress(b" " * (200 << 20), 9)
    answer = post(vcenter, bomb, **{"Content-Encoding": "gzip"})
    assert answer[0] == 413


def test_a_large_valid_request_does_not_stop_others(vcenter: VcenterProcess) -> None:
    body = CONTENT.replace("<soapenv:Body>", f"<!--{'x' * (20 << 20)}--><soapenv:Body>")
    answers: list[int] = []
    large = threading.Thread(target=lambda: answers.append(post(vcenter, body)[0]))
    large.start()
    assert post(vcenter, CONTENT)[0] == 200
    large.join(30)
    assert answers == [200]


def test_an_unknown_reference_is_managed_object_not_found(si: Any) -> None:
    ghost = vim.VirtualMachine("vm-99999", si._stub)
    with pytest.raises(vmodl.fault.ManagedObjectNotFound) as caught:
        ghost.PowerOn(None)
    assert caught.value.obj._moId == "vm-99999"
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = ghost.name
    # A reference of another type than the object has is no reference to it.
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        vim.VirtualMachine("group-d1", si._stub).PowerOn(None)


def test_what_is_not_served_says_so(si: Any) -> None:
    with pytest.raises(vmodl.fault.NotSupported):
        si.content.rootFolder.CreateStoragePod("pod")
    with pytest.raises(vmodl.fault.NotSupported):
        si.content.sessionManager.AcquireLocalTicket("root")


def test_a_file_is_not_given_to_strangers(vcenter: VcenterProcess) -> None:
    connection = vcenter.http()
    connection.request("GET", "/folder/a.vmx?dcPath=dc&dsName=ds")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")


@pytest.mark.parametrize(
    ("user", "method", "target", "status"),
    [
        (ADMINISTRATOR, "GET", "/folder/a.vmx?dcPath=dc&dsName=nowhere", 404),
        (ADMINISTRATOR, "GET", "/folder/a.vmx", 400),
        (READER, "PUT", "/folder/a.vmx?dsName=ds", 403),
        (READER, "DELETE", "/folder/a.vmx?dsName=ds", 403),
        (("administrator@vsphere.local", "wrong"), "GET", "/folder/a?dsName=ds", 401),
    ],
)
def test_file_access_is_refused_in_http_terms(
    vcenter: VcenterProcess, user: tuple[str, str], method: str, target: str, status: int
) -> None:
    import base64

    connection = vcenter.http()
    basic = base64.b64encode(":".join(user).encode()).decode()
    connection.request(method, target, headers={"Authorization": f"Basic {basic}"})
    assert connection.getresponse().status == status
