"""Responses as stock pyVmomi reads them."""

from pyVmomi import SoapAdapter, vim
from pyVmomi.VmomiSupport import versionMap

from landbridge.vmodl import responses, versions
from landbridge.vmodl.requests import find_method


def test_a_fault_comes_back_as_the_same_type_with_its_text_and_fields() -> None:
    fault = vim.fault.DuplicateName(name="web", object=vim.Folder("group-v3", None), msg='"web" < exists')
    text = responses.fault(fault)
    found = SoapAdapter.SoapResponseDeserializer(None).Deserialize(text, object)
    assert isinstance(found, vim.fault.DuplicateName)
    assert found.msg == '"web" < exists'
    assert (found.name, found.object._moId) == ("web", "group-v3")
    assert b'<DuplicateNameFault xmlns="urn:vim25" xsi:type="DuplicateName">' in text


def test_a_fault_newer_than_the_client_becomes_one_it_knows() -> None:
    kind = vim.fault.FaultToleranceVmNotDasProtected
    text = responses.fault(kind(vm=vim.VirtualMachine("vm-1", None), vmName="a"), versionMap["vim25/2.5"])
    assert b"FaultToleranceVmNotDasProtected" not in text


def test_a_result_is_wrapped_in_the_name_of_its_method() -> None:
    method = find_method("urn:vim25", "FindByUuid")
    text = responses.result(method, vim.VirtualMachine("vm-7", None), versions.CURRENT)
    assert b'<FindByUuidResponse xmlns="urn:vim25"><returnval type="VirtualMachine">vm-7</returnval>' in text
    found = SoapAdapter.SoapResponseDeserializer(None).Deserialize(text, vim.ManagedEntity)
    assert found._moId == "vm-7"


def test_an_unset_result_is_an_empty_response() -> None:
    text = responses.result(find_method("urn:vim25", "FindByUuid"), None, versions.CURRENT)
    assert b'<FindByUuidResponse xmlns="urn:vim25"></FindByUuidResponse>' in text


def test_the_versions_document_claims_what_we_serve_and_nothing_newer() -> None:
    text = versions.document().decode()
    assert "<name>urn:vim25</name><version>8.0.3.0</version>" in text
    assert "9.0.0.0" not in text
    assert "<version>6.7</version>" in text
    assert "<version></version>" not in text


def test_a_client_without_a_version_gets_what_we_claim() -> None:
    assert versions.from_action('"urn:vim25/7.0.3.0"') == versionMap["vim25/7.0.3.0"]
    for action in (None, "", "urn:vim25", '"urn:vim25/99.9"', "nonsense"):
        assert versions.from_action(action) == versions.CURRENT
