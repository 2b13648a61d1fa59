"""The compiler: a pure function from a snapshot to rows of the northbound database, one module per family."""

from landbridge.nsx.ovn.compile.context import Context
from landbridge.nsx.ovn.compile.dhcp import compile_dhcp
from landbridge.nsx.ovn.compile.firewall import compile_firewall
from landbridge.nsx.ovn.compile.gateways import compile_gateways
from landbridge.nsx.ovn.compile.groups import Groups
from landbridge.nsx.ovn.compile.nat import compile_nat
from landbridge.nsx.ovn.compile.others import compile_others
from landbridge.nsx.ovn.compile.ports import compile_ports
from landbridge.nsx.ovn.compile.routes import compile_routes
from landbridge.nsx.ovn.compile.segments import compile_segments
from landbridge.nsx.ovn.compile.services import Services
from landbridge.nsx.ovn.rows import Present, Wanted
from landbridge.nsx.snapshot import Snapshot


def compile_snapshot(snapshot: Snapshot, present: Present) -> Wanted:
    """All rows that the snapshot needs, and what of them each intent is; why, where an intent can not be realised.

    The same snapshot with the same present choices gives the same rows.
    """
    context = Context(snapshot, present)
    dhcp = compile_dhcp(context)
    compile_segments(context, dhcp)
    compile_ports(context, dhcp)
    compile_gateways(context)
    compile_routes(context, compile_nat(context))
    groups = Groups(context)
    groups.compile()
    compile_firewall(context, groups, Services(context))
    compile_others(context)
    context.wanted.finish()
    return context.wanted
