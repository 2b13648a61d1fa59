"""The parser of SOAP requests against what hostile and broken clients send."""

import pytest
from pyVmomi import vim, vmodl

from landbridge.vmodl.requests import parse

ENVELOPE = (
    '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema">'
    "<soapenv:Header><operationID>abc</operationID></soapenv:Header><soapenv:Body>{}</soapenv:Body></soapenv:Envelope>"
)
LOGIN = (
    '<Login xmlns="urn:vim25"><_this type="SessionManager">SessionManager</_this>'
    "<userName>{}</userName><password>pw</password></Login>"
)


def soap(body: str) -> bytes:
    return ENVELOPE.format(body).encode()


def refusal(body: bytes) -> str:
    """What the parser says when it refuses a body; the test fails when it does not refuse."""
    with pytest.raises(vmodl.fault.InvalidRequest) as caught:
        parse(body)
    return str(caught.value.msg)


def test_a_request_becomes_a_method_a_reference_and_arguments() -> None:
    request = parse(soap(LOGIN.format("ad&amp;min ü")))
    assert request.method.wsdl_name == "Login"
    assert isinstance(request.this, vim.SessionManager)
    assert request.arguments == {"userName": "ad&min ü", "password": "pw", "locale": None}


def test_absent_arrays_are_empty() -> None:
    request = parse(
        soap(
            '<CreateContainerView xmlns="urn:vim25"><_this type="ViewManager">ViewManager</_this>'
            '<container type="Folder">group-d1</container><recursive>true</recursive></CreateContainerView>'
        )
    )
    assert request.arguments["type"] == []
    assert request.arguments["recursive"] is True
    assert request.arguments["container"]._moId == "group-d1"


def test_data_objects_keep_their_dynamic_type() -> None:
    request = parse(
        soap(
            '<RetrievePropertiesEx xmlns="urn:vim25"><_this type="PropertyCollector">propertyCollector</_this><specSet>'
            "<propSet><type>VirtualMachine</type><pathSet>name</pathSet></propSet>"
            '<objectSet><obj type="Folder">group-d1</obj><selectSet xsi:type="TraversalSpec"><name>t</name>'
            "<type>Folder</type><path>childEntity</path></selectSet></objectSet></specSet><options/>"
            "</RetrievePropertiesEx>"
        )
    )
    (spec,) = request.arguments["specSet"]
    assert spec.propSet[0].type is vim.VirtualMachine
    assert isinstance(spec.objectSet[0].selectSet[0], vmodl.query.PropertyCollector.TraversalSpec)


@pytest.mark.parametrize(
    "prolog",
    [
        '<!DOCTYPE x [<!ENTITY a "ha">]>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd">',
        '<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]>',
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
    ],
)
def test_document_types_and_entities_are_refused(prolog: str) -> None:
    assert "document type" in refusal(prolog.encode() + soap(LOGIN.format("&a;")))


def test_processing_instructions_are_refused() -> None:
    assert "processing instruction" in refusal(soap("<?php evil ?>" + LOGIN.format("a")))


def test_an_undefined_entity_is_refused() -> None:
    assert "not well-formed" in refusal(soap(LOGIN.format("&nothing;")))


@pytest.mark.parametrize("body", [b"", b"hello", b"\x00\x01", soap(LOGIN.format("a"))[:-5], soap(LOGIN.format("</a>"))])
def test_what_is_not_well_formed_is_refused(body: bytes) -> None:
    assert "not well-formed" in refusal(body)


def test_another_document_than_soap_is_refused() -> None:
    assert "envelope" in refusal(b"<html><body/></html>")


def test_an_envelope_without_a_method_is_refused() -> None:
    assert "no SOAP Body with a method" in refusal(soap(""))


def test_two_methods_in_one_body_are_refused() -> None:
    assert "more than one" in refusal(soap(LOGIN.format("a") + LOGIN.format("b")))


def test_deep_nesting_is_refused() -> None:
    inner = '<selectSet xsi:type="TraversalSpec"><type>Folder</type><path>p</path>' * 200 + "</selectSet>" * 200
    body = (
        '<RetrieveProperties xmlns="urn:vim25"><_this type="PropertyCollector">propertyCollector</_this>'
        f'<specSet><objectSet><obj type="Folder">g</obj>{inner}</objectSet></specSet></RetrieveProperties>'
    )
    assert "nested deeper" in refusal(soap(body))
    assert "nested deeper" in refusal(b"<soapenv:Envelope" + soap("")[17:].replace(b"<operationID>", b"<a>" * 500))


def test_a_method_the_api_does_not_have_is_named() -> None:
    with pytest.raises(vmodl.fault.MethodNotFound) as caught:
        parse(soap('<LaunchRocket xmlns="urn:vim25"><_this type="Folder">group-d1</_this></LaunchRocket>'))
    assert "LaunchRocket" in caught.value.msg


def test_a_missing_required_parameter_is_named() -> None:
    assert "userName" in refusal(
        soap(
            '<Login xmlns="urn:vim25"><_this type="SessionManager">SessionManager</_this><password>x</password></Login>'
        )
    )


def test_a_missing_this_is_refused() -> None:
    assert "_this" in refusal(soap('<CurrentTime xmlns="urn:vim25"/>'))


@pytest.mark.parametrize(
    "body",
    [
        '<Login xmlns="urn:vim25"><_this type="SessionManager">S</_this><nonsense>1</nonsense></Login>',
        '<Login xmlns="urn:vim25"><_this type="Nonsense">S</_this></Login>',
        '<Login xmlns="urn:vim25"><_this>S</_this></Login>',
        '<UpdateProgress xmlns="urn:vim25"><_this type="Task">t</_this>'
        "<percentDone>many</percentDone></UpdateProgress>",
        '<UpdateProgress xmlns="urn:vim25"><_this type="Task">t</_this>'
        '<percentDone xsi:type="xsd:string">1</percentDone></UpdateProgress>',
        '<SetTaskState xmlns="urn:vim25"><_this type="Task">t</_this><state>__class__</state></SetTaskState>',
        '<CreateFilter xmlns="urn:vim25"><_this type="PropertyCollector">p</_this>'
        '<spec xsi:type="VirtualMachineConfigSpec"/><partialUpdates>true</partialUpdates></CreateFilter>',
    ],
)
def test_what_does_not_fit_the_api_is_refused(body: str) -> None:
    assert "does not fit the API" in refusal(soap(body))


def test_a_text_of_many_megabytes_is_parsed_in_linear_time() -> None:
    text = "x&amp;" * (4 << 20)
    assert len(parse(soap(LOGIN.format(text))).arguments["userName"]) == 8 << 20
