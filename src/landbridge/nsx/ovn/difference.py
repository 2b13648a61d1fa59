"""What must be written so that the northbound database has the rows that are wanted: a pure comparison."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from landbridge.nsx.ovn.ovsdb import Tables
from landbridge.nsx.ovn.rows import CHOICE, KEY, Present, Ref, Row


def _columns(*, text: str = "", sets: str = "", maps: str = "", **others: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(text.split(), ""),
        **dict.fromkeys(sets.split(), frozenset()),
        **{name: {} for name in maps.split()},
        **others,
    }


# The columns that are ours, by table, with their defaults. What ovn-northd writes is not among them.
COLUMNS: dict[str, dict[str, Any]] = {
    "Logical_Switch": _columns(
        text="name", sets="ports acls qos_rules load_balancer dns_records forwarding_groups", maps="other_config"
    ),
    "Logical_Switch_Port": _columns(
        text="name type",
        sets="parent_name tag tag_request addresses port_security enabled dhcpv4_options dhcpv6_options mirror_rules "
        "ha_chassis_group",
        maps="options",
    ),
    "Logical_Router": _columns(
        text="name", sets="ports static_routes policies enabled nat load_balancer", maps="options"
    ),
    "Logical_Router_Port": _columns(
        text="name mac",
        sets="gateway_chassis ha_chassis_group networks peer enabled",
        maps="options ipv6_ra_configs",
    ),
    "Logical_Router_Static_Route": _columns(
        text="route_table ip_prefix nexthop", sets="policy output_port bfd", maps="options"
    ),
    "Logical_Router_Policy": _columns(
        text="match", sets="nexthop nexthops", maps="options", action="allow", priority=0
    ),
    "NAT": _columns(
        text="external_ip external_port_range logical_ip",
        sets="external_mac logical_port allowed_ext_ips exempted_ext_ips gateway_port",
        maps="options",
        type="dnat",
    ),
    "Load_Balancer": _columns(
        text="name", sets="protocol health_check selection_fields", maps="vips ip_port_mappings options"
    ),
    "DHCP_Options": _columns(text="cidr", maps="options"),
    "Address_Set": _columns(text="name", sets="addresses"),
    "Port_Group": _columns(text="name", sets="ports acls"),
    "ACL": _columns(
        text="match",
        sets="name severity meter",
        maps="options",
        priority=0,
        direction="from-lport",
        action="allow",
        log=False,
        label=0,
    ),
    "Gateway_Chassis": _columns(text="name chassis_name", maps="options", priority=0),
}
# Rows of these live by themselves; others as long as something refers to them.
_ROOTS = ("Logical_Switch", "Logical_Router", "Load_Balancer", "DHCP_Options", "Address_Set", "Port_Group")
# Of the others these must be deleted by name: what they refer to is not free before they are collected.
_HOLDERS = ("NAT",)
# A name in these tables is taken once in the whole database.
_NAMED = frozenset({"Logical_Switch_Port", "Logical_Router_Port", "Address_Set", "Port_Group", "Gateway_Chassis"})
# The columns of ours that hold references.
_REFERRING = {
    "Logical_Switch": ("ports",),
    "Logical_Switch_Port": ("dhcpv4_options",),
    "Logical_Router": ("ports", "static_routes", "nat", "load_balancer"),
    "Logical_Router_Port": ("gateway_chassis",),
    "NAT": ("allowed_ext_ips", "exempted_ext_ips", "gateway_port"),
    "Port_Group": ("ports", "acls"),
}
# The least size of a set of which only the difference is sent.
_LARGE = 8


@dataclass
class Difference:
    """Operations of one transaction, and the rows that they make or change."""

    operations: list[dict[str, Any]] = field(default_factory=list)
    touched: set[Ref] = field(default_factory=set)
    removed: int = 0


def ours(tables: Tables) -> dict[Ref, str]:
    """The UUIDs of the rows that have a key of ours."""
    return {
        Ref(table, key): uuid
        for table in COLUMNS
        for uuid, row in tables[table].items()
        if (key := row["external_ids"].get(KEY)) is not None
    }


def present(tables: Tables) -> Present:
    """What the compiler must know of the database."""
    choices = {}
    for table in COLUMNS:
        for row in tables[table].values():
            ids: Any = row["external_ids"]
            if KEY in ids and CHOICE in ids:
                choices[ids[KEY]] = ids[CHOICE]
    dynamic = {
        str(row["name"]): str(next(iter(addresses)))
        for row in tables["Logical_Switch_Port"].values()
        if isinstance(addresses := row["dynamic_addresses"], frozenset) and addresses
    }
    return Present(choices, dynamic)


def difference(wanted: Mapping[Ref, Row], tables: Tables) -> Difference:
    """Compare all rows. Rows without our key are left alone, unless they have a name that one of ours must have."""
    here = ours(tables)
    _adopt(wanted, tables, here)
    made = Difference()
    symbols = {ref: f"row{number}" for number, ref in enumerate(ref for ref in wanted if ref not in here)}
    for ref, row in wanted.items():
        uuid = here.get(ref)
        if uuid is not None and _same(row, tables[ref.table][uuid], here):
            continue
        columns = {column: _resolve(value, here, symbols) for column, value in row.columns.items()}
        columns["external_ids"] = _identifiers(row)
        if uuid is None:
            encoded = {column: _encode(value) for column, value in columns.items()}
            made.operations.append({"op": "insert", "table": ref.table, "uuid-name": symbols[ref], "row": encoded})
            made.touched.add(ref)
        elif operations := list(_changes(ref.table, uuid, columns, tables[ref.table][uuid])):
            made.operations += operations
            made.touched.add(ref)
    gone = [(table, uuid) for table in (*_ROOTS, *_HOLDERS) for uuid in _unwanted(table, wanted, here, tables)]
    made.operations += [{"op": "delete", "table": table, "where": _where(uuid)} for table, uuid in gone]
    made.removed = len(gone)
    return made


def _unwanted(table: str, wanted: Mapping[Ref, Row], here: Mapping[Ref, str], tables: Tables) -> Iterable[str]:
    """Rows with a key of ours that nobody wants, copies included."""
    for uuid, row in tables[table].items():
        key = row["external_ids"].get(KEY)
        if key is not None and (Ref(table, key) not in wanted or here[Ref(table, key)] != uuid):
            yield uuid


def _adopt(wanted: Mapping[Ref, Row], tables: Tables, here: dict[Ref, str]) -> None:
    """Take a row for ours whose key somebody removed: its name is one that only we give, and can not be given twice."""
    missing = {(ref.table, row.columns["name"]): ref for ref, row in wanted.items() if ref.table in _NAMED}
    for table in _NAMED:
        for uuid, row in tables[table].items():
            ref = missing.get((table, row["name"]))
            if ref is not None and ref not in here and KEY not in row["external_ids"]:
                here[ref] = uuid


def _same(row: Row, now: Mapping[str, Any], here: Mapping[Ref, str]) -> bool:
    """Whether nothing is to do for a row: nearly always so, and for thousands of rows, hence in few steps."""
    expected = {**now, **COLUMNS[row.table], **row.columns, "external_ids": _identifiers(row)}
    for column in _REFERRING.get(row.table, ()):
        if expected[column]:
            expected[column] = frozenset([here.get(ref) for ref in expected[column]])
    return expected == now


def _identifiers(row: Row) -> dict[str, str]:
    return {KEY: row.key, CHOICE: row.choice} if row.choice else {KEY: row.key}


def _changes(table: str, uuid: str, columns: Mapping[str, Any], row: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    changed: dict[str, Any] = {}
    mutations: list[list[Any]] = []
    for column, default in (*COLUMNS[table].items(), ("external_ids", {})):
        value, now = columns.get(column, default), row[column]
        if value == now:
            continue
        if isinstance(value, frozenset) and isinstance(now, frozenset) and len(now) > _LARGE:
            references = any(isinstance(item, _Uuid) for item in value)
            less = [_Uuid("uuid", item) for item in now - value] if references else now - value
            if more := value - now:
                mutations.append([column, "insert", _encode(more)])
            if less:
                mutations.append([column, "delete", _encode(frozenset(less))])
        else:
            changed[column] = _encode(value)
    if changed:
        yield {"op": "update", "table": table, "where": _where(uuid), "row": changed}
    if mutations:
        yield {"op": "mutate", "table": table, "where": _where(uuid), "mutations": mutations}


class _Uuid(str):
    """A reference in a column: equal to the UUID's text as the database's rows have it."""

    __slots__ = ("kind",)
    kind: str

    def __new__(cls, kind: str, text: str) -> "_Uuid":
        self = super().__new__(cls, text)
        self.kind = kind
        return self


def _resolve(value: Any, here: Mapping[Ref, str], symbols: Mapping[Ref, str]) -> Any:
    if isinstance(value, frozenset) and value and isinstance(next(iter(value)), Ref):
        return frozenset([_uuid(ref, here, symbols) for ref in value])
    return value


def _uuid(ref: Ref, here: Mapping[Ref, str], symbols: Mapping[Ref, str]) -> _Uuid:
    return _Uuid("uuid", here[ref]) if ref in here else _Uuid("named-uuid", symbols[ref])


def _encode(value: Any) -> Any:
    if isinstance(value, dict):
        return ["map", [[key, item] for key, item in value.items()]]
    if isinstance(value, frozenset):
        return ["set", [[item.kind, item] if isinstance(item, _Uuid) else item for item in value]]
    return value


def _where(uuid: str) -> list[list[Any]]:
    return [["_uuid", "==", ["uuid", uuid]]]
