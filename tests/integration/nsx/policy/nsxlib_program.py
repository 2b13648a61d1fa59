"""What OpenStack does with NSX: vmware-nsxlib against a manager; a process of its own, as it patches the interpreter.

Reads {"manager", "ca", "user", "password"} from standard input, writes what it found as JSON.
"""

import json
import sys
from importlib import import_module
from typing import Any

config: Any = import_module("vmware_nsxlib.v3.config")
exceptions: Any = import_module("vmware_nsxlib.v3.exceptions")
policy: Any = import_module("vmware_nsxlib.v3.policy")
constants: Any = import_module("vmware_nsxlib.v3.policy.constants")
transaction: Any = import_module("vmware_nsxlib.v3.policy.transaction")


def connect(given: dict[str, str], password: str) -> Any:
    return policy.NsxPolicyLib(
        config.NsxLibConfig(
            nsx_api_managers=[given["manager"]],
            username=given["user"],
            password=password,
            insecure=False,
            ca_file=given["ca"],
            retries=1,
            max_attempts=2,
            http_timeout=20,
            http_read_timeout=20,
            allow_passthrough=True,
        )
    )


def gateway_and_segment(lib: Any, found: dict[str, Any]) -> None:
    lib.dhcp_server_config.create_or_overwrite("nl-dhcp", "nl-dhcp", server_addresses=["10.60.0.2/24"], lease_time=3600)
    lib.tier1.create_or_overwrite("nl-t1", "nl-t1", tags=[{"scope": "os", "tag": "1"}])
    advertised = lib.tier1.build_route_advertisement(subnets=True, nat=True)
    lib.tier1.update("nl-t1", route_advertisement=advertised)
    dhcp = lib.segment.build_dhcp_config_v4("10.60.0.2/24", dns_servers=["10.60.0.3"], lease_time=7200)
    subnet = lib.segment.build_subnet("10.60.0.1/24", ["10.60.0.100-10.60.0.200"], dhcp)
    lib.segment.create_or_overwrite(
        "nl-web", "nl-web", tier1_id="nl-t1", subnets=[subnet], dhcp_server_config_id="nl-dhcp"
    )
    lib.segment.update("nl-web", description="web tier")
    lib.segment_dhcp_static_bindings.create_or_overwrite_v4(
        "nl-bind", "nl-web", "nl-bind", ip_address="10.60.0.10", mac_address="00:50:56:AA:00:01", host_name="web1"
    )
    lib.segment_port.create_or_overwrite(
        "nl-port", "nl-web", "nl-port", attachment_type="PARENT", vif_id="11111111-2222-3333-4444-555555555555"
    )
    lib.tier1_nat_rule.create_or_overwrite(
        "nl-snat",
        "nl-t1",
        nat_rule_id="nl-snat",
        action="SNAT",
        source_network="10.60.0.0/24",
        translated_network="192.0.2.5",
    )
    lib.tier1_static_route.create_or_overwrite(
        "nl-route", "nl-t1", "nl-route", network="172.16.0.0/16", next_hop="10.60.0.254"
    )
    found["tier1"] = lib.tier1.get("nl-t1")
    found["segment"] = lib.segment.get("nl-web")
    found["binding"] = lib.segment_dhcp_static_bindings.get("nl-web", "nl-bind")
    found["port"] = lib.segment_port.get("nl-web", "nl-port")
    found["nat"] = lib.tier1_nat_rule.get("nl-t1", "nl-snat")
    found["route"] = lib.tier1_static_route.get("nl-t1", "nl-route")
    found["segments"] = [one["id"] for one in lib.segment.list()]


def firewall(lib: Any, found: dict[str, Any]) -> None:
    lib.group.create_or_overwrite(
        "nl-web", "default", "nl-web", cond_val="role|web", cond_member_type=constants.CONDITION_MEMBER_VM
    )
    addresses = lib.group.build_ip_address_expression(["10.60.0.0/24"])
    lib.group.create_or_overwrite_with_conditions("nl-net", "default", "nl-net", conditions=[addresses])
    lib.service.create_or_overwrite("nl-app", "nl-app", protocol=constants.TCP, dest_ports=["8443"])
    lib.icmp_service.create_or_overwrite("nl-ping", "nl-ping", icmp_type=8)
    entry = lib.comm_map.build_entry(
        "nl-rule",
        "default",
        "nl-policy",
        "nl-rule",
        sequence_number=10,
        source_groups=["nl-net"],
        dest_groups=["nl-web"],
        service_ids=["nl-app"],
        action=constants.ACTION_ALLOW,
    )
    lib.comm_map.create_with_entries("nl-policy", "default", "nl-policy", entries=[entry], category="Application")
    lib.comm_map.create_entry(
        "nl-drop", "default", "nl-policy", "nl-drop", sequence_number=20, action=constants.ACTION_DENY
    )
    found["group"] = lib.group.get("default", "nl-web")
    found["service"] = lib.service.get("nl-app")
    found["policy"] = lib.comm_map.get("default", "nl-policy")


def at_once(lib: Any, found: dict[str, Any]) -> None:
    with transaction.NsxPolicyTransaction():
        lib.tier1.create_or_overwrite("nl-t1b", "nl-t1b")
        lib.group.create_or_overwrite_with_conditions("nl-tx", "default", "nl-tx", conditions=[])
        lib.segment.create_or_overwrite("nl-tx", "nl-tx", tier1_id="nl-t1b")
        lib.service.create_or_overwrite("nl-tx", "nl-tx", protocol=constants.UDP, dest_ports=["514"])
    found["at_once"] = [
        lib.segment.get("nl-tx")["connectivity_path"],
        lib.service.get("nl-tx")["service_entries"][0]["destination_ports"],
        lib.group.get("default", "nl-tx")["id"],
    ]


def refusals(given: dict[str, str], lib: Any, found: dict[str, Any]) -> None:
    def raised(what: Any) -> str:
        try:
            what()
        except exceptions.NsxLibException as error:
            return type(error).__name__
        return "nothing"

    stale = dict(found["segment"], display_name="late", _revision=0)
    found["in_use"] = raised(lambda: lib.tier1.delete("nl-t1"))
    found["missing"] = raised(lambda: lib.segment.get("nl-nothing"))
    found["stale"] = raised(lambda: lib.client.update("infra/segments/nl-web", stale))
    overlapping = lib.segment.build_subnet("10.60.0.129/25")
    found["overlap"] = raised(
        lambda: lib.segment.create_or_overwrite("nl-over", "nl-over", tier1_id="nl-t1", subnets=[overlapping])
    )
    found["wrong_login"] = raised(lambda: connect({**given, "user": "nobody"}, "wrong").tier1.list())


def clean(lib: Any, found: dict[str, Any]) -> None:
    lib.comm_map.delete("default", "nl-policy")
    lib.segment_port.delete("nl-web", "nl-port")
    lib.segment_dhcp_static_bindings.delete("nl-web", "nl-bind")
    lib.segment.delete("nl-web")
    lib.segment.delete("nl-tx")
    lib.tier1_nat_rule.delete("nl-t1", "nl-snat")
    lib.tier1_static_route.delete("nl-t1", "nl-route")
    lib.tier1.delete("nl-t1")
    lib.tier1.delete("nl-t1b")
    found["left"] = [one["id"] for one in lib.tier1.list() if one["id"].startswith("nl-")]


def main() -> None:
    given = json.load(sys.stdin)
    lib = connect(given, given["password"])
    found: dict[str, Any] = {"version": lib.get_version()}
    gateway_and_segment(lib, found)
    firewall(lib, found)
    at_once(lib, found)
    refusals(given, lib, found)
    clean(lib, found)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
