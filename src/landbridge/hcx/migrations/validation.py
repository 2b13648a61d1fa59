"""What would keep a VM from migrating, found before anything is touched. Each finding names the VM, cause and cure."""

from landbridge.hcx.inventory import NicFacts, VmFacts
from landbridge.hcx.migrations.model import Findings, MigrationInput

_POWER = {"vMotion": "poweredOn", "Cold": "poweredOff"}
TYPES = tuple(_POWER)


def check_request(asked: MigrationInput) -> Findings:
    """What the request alone says."""
    findings = Findings()
    name = asked.entityDetails.entityName or asked.entityDetails.entityId
    if asked.migrationType not in TYPES:
        findings.errors.append(
            f"{name}: migration type {asked.migrationType!r} is not served here; choose {' or '.join(TYPES)}"
        )
    if asked.schedule.get("scheduledFailover"):
        findings.errors.append(f"{name}: a switchover can not be scheduled for {asked.migrationType}: leave it out")
    for wanted in ("upgradeHardware", "upgradeVMTools", "forcePowerOffVm"):
        if getattr(asked.decisionRules, wanted):
            findings.errors.append(f"{name}: {wanted} is not served here: leave it out")
    if not asked.networks.retainMac:
        findings.warnings.append(f"{name}: MAC addresses are kept, as {asked.migrationType} always does")
    return findings


def check_vm(asked: MigrationInput, vm: VmFacts | None) -> Findings:
    """What the VM at its source says."""
    findings = Findings()
    if vm is None:
        wanted = asked.entityDetails.entityId or asked.entityDetails.entityName
        findings.errors.append(f"{wanted}: the source's vCenter has no such VM: look it up with virtualmachines")
        return findings
    needed = _POWER.get(asked.migrationType, vm.power_state)
    if vm.power_state != needed:
        other = {"vMotion": "Cold", "Cold": "vMotion"}[asked.migrationType]
        findings.errors.append(
            f"{vm.name} is {vm.power_state}, {asked.migrationType} needs it {needed}: change that, or choose {other}"
        )
    if vm.template:
        findings.errors.append(f"{vm.name} is a template: convert it to a virtual machine first")
    if vm.connection_state != "connected":
        findings.errors.append(f"{vm.name} is {vm.connection_state} at its source: bring its host back first")
    if vm.snapshots and not asked.decisionRules.removeSnapshots:
        findings.errors.append(f"{vm.name} has snapshots, which do not migrate: remove them, or set removeSnapshots")
    if vm.mounted and not asked.decisionRules.removeISOs:
        media = ", ".join(vm.mounted)
        findings.errors.append(f"{vm.name} has {media} mounted: disconnect it, or set removeISOs")
    for nic in vm.nics:
        if nic.network and not _target(asked, nic):
            findings.errors.append(
                f"{vm.name}: network {nic.network_name or nic.network} of NIC {nic.key} has no target network: "
                "map it in networks.targetNetworks"
            )
    return findings


def map_networks(asked: MigrationInput, vm: VmFacts) -> dict[int, str]:
    """By NIC key, the target's network (moRef or name); a NIC on no network stays on none."""
    return {nic.key: _target(asked, nic) for nic in vm.nics if nic.network and _target(asked, nic)}


def _target(asked: MigrationInput, nic: NicFacts) -> str:
    for mapping in asked.networks.targetNetworks:
        ids = {mapping.srcNetworkValue, mapping.srcNetworkHref} - {""}
        if nic.network in ids or (not ids and mapping.srcNetworkName and mapping.srcNetworkName == nic.network_name):
            return mapping.target
    return ""
