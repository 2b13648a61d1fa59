"""`landbridge vm`: everyday work with virtual machines, through the vSphere API of the site's vCenter."""

import json
from typing import Any

import click
from pyVmomi import vim
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from landbridge.cli import vsphere
from landbridge.cli.sites import login_options
from landbridge.lab.build import Login

_MIB = 1 << 20
_LISTED = [
    "name",
    "runtime.powerState",
    "runtime.host",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "guest.ipAddress",
    "guest.toolsRunningStatus",
    "config.instanceUuid",
]

as_json = click.option("--json", "json_output", is_flag=True, help="Print JSON, for scripts.")


@click.group()
@click.pass_context
@login_options("vcenter")
def vm(context: click.Context, login: Login) -> None:
    """Virtual machines of a site."""
    context.obj = login


def _print(json_output: bool, value: Any, table: Table) -> None:
    if json_output:
        click.echo(json.dumps(value, indent=2))
    else:
        Console().print(table)


@vm.command("list")
@as_json
@click.pass_obj
def list_(login: Login, json_output: bool) -> None:
    """List the virtual machines."""
    with vsphere.session(login) as service:
        hosts = {host: values["name"] for host, values in vsphere.rows(service, vim.HostSystem, ["name"])}
        machines = [values for _, values in vsphere.rows(service, vim.VirtualMachine, _LISTED)]
    listed = [
        {
            "name": values.get("name"),
            "power": values.get("runtime.powerState"),
            "host": hosts.get(values.get("runtime.host")),
            "cpus": values.get("config.hardware.numCPU"),
            "memory_mib": values.get("config.hardware.memoryMB"),
            "ip": values.get("guest.ipAddress"),
            "tools": values.get("guest.toolsRunningStatus"),
            "uuid": values.get("config.instanceUuid"),
        }
        for values in sorted(machines, key=lambda values: str(values.get("name")))
    ]
    table = Table("Name", "Power", "Host", "CPUs", "Memory", "IP address")
    for row in listed:
        memory = f"{row['memory_mib']} MiB" if row["memory_mib"] else ""
        cells = (row["name"], row["power"], row["host"], row["cpus"], memory, row["ip"])
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in cells))
    _print(json_output, listed, table)


@vm.command()
@click.argument("name")
@as_json
@click.pass_obj
def show(login: Login, name: str, json_output: bool) -> None:
    """Show one virtual machine's hardware, disks and networks."""
    with vsphere.session(login) as service:
        machine = vsphere.find(service, vim.VirtualMachine, name)
        config = machine.config
        devices = [
            {"key": device.key, "label": device.deviceInfo.label, "summary": device.deviceInfo.summary}
            for device in config.hardware.device
            if device.deviceInfo is not None
        ]
        facts: dict[str, Any] = {
            "name": config.name,
            "power": machine.runtime.powerState,
            "uuid": config.uuid,
            "instance_uuid": config.instanceUuid,
            "hardware": config.version,
            "firmware": config.firmware,
            "cpus": config.hardware.numCPU,
            "memory_mib": config.hardware.memoryMB,
            "file": config.files.vmPathName,
            "devices": devices,
        }
    table = Table(show_header=False)
    for key, value in facts.items():
        if key != "devices":
            table.add_row(key.replace("_", " "), escape(str(value)))
    for device in devices:
        table.add_row(escape(str(device["label"])), escape(str(device["summary"])))
    _print(json_output, facts, table)


def _power(method: str, title: str, login: Login, names: tuple[str, ...]) -> None:
    with vsphere.session(login) as service:
        for name in names:
            machine = vsphere.find(service, vim.VirtualMachine, name)
            vsphere.follow(getattr(machine, method)(), f"{title} {name}")


names_argument = click.argument("names", nargs=-1, required=True)


@vm.command()
@names_argument
@click.pass_obj
def on(login: Login, names: tuple[str, ...]) -> None:
    """Power virtual machines on."""
    _power("PowerOnVM_Task", "Powering on", login, names)


@vm.command()
@names_argument
@click.pass_obj
def off(login: Login, names: tuple[str, ...]) -> None:
    """Power virtual machines off, as by pulling the plug."""
    _power("PowerOffVM_Task", "Powering off", login, names)


@vm.command()
@names_argument
@click.pass_obj
def reset(login: Login, names: tuple[str, ...]) -> None:
    """Reset virtual machines."""
    _power("ResetVM_Task", "Resetting", login, names)


@vm.command()
@names_argument
@click.pass_obj
def suspend(login: Login, names: tuple[str, ...]) -> None:
    """Suspend virtual machines to disk."""
    _power("SuspendVM_Task", "Suspending", login, names)


@vm.command()
@names_argument
@click.pass_obj
def shutdown(login: Login, names: tuple[str, ...]) -> None:
    """Ask the guests to shut down (needs VMware Tools in the guest)."""
    with vsphere.session(login) as service:
        for name in names:
            vsphere.find(service, vim.VirtualMachine, name).ShutdownGuest()


@vm.command()
@click.argument("name")
@click.confirmation_option(prompt="Delete the virtual machine with its disks?")
@click.pass_obj
def destroy(login: Login, name: str) -> None:
    """Delete a powered-off virtual machine with its disks."""
    with vsphere.session(login) as service:
        vsphere.follow(vsphere.find(service, vim.VirtualMachine, name).Destroy_Task(), f"Deleting {name}")


@vm.command()
@click.argument("name")
@click.argument("new_name")
@click.option("--datastore", help="Datastore of the copy; that of the original by default.")
@click.option("--host", help="Host of the copy; that of the original by default.")
@click.option("--power-on", is_flag=True, help="Power the copy on.")
@click.pass_obj
def clone(login: Login, name: str, new_name: str, datastore: str | None, host: str | None, power_on: bool) -> None:
    """Copy a virtual machine."""
    with vsphere.session(login) as service:
        machine = vsphere.find(service, vim.VirtualMachine, name)
        spec = vim.vm.CloneSpec(location=_placement(service, host, datastore), powerOn=power_on, template=False)
        vsphere.follow(machine.CloneVM_Task(machine.parent, new_name, spec), f"Cloning {name}")


@vm.command()
@click.argument("name")
@click.option("--host", help="Move to this host (vMotion, if the machine runs).")
@click.option("--datastore", help="Move the disks to this datastore (storage vMotion).")
@click.pass_obj
def relocate(login: Login, name: str, host: str | None, datastore: str | None) -> None:
    """Move a virtual machine within its vCenter, running or not."""
    if not host and not datastore:
        raise click.UsageError("say where to: --host, --datastore or both")
    with vsphere.session(login) as service:
        machine = vsphere.find(service, vim.VirtualMachine, name)
        task = machine.RelocateVM_Task(_placement(service, host, datastore))
        vsphere.follow(task, f"Relocating {name}")


def _placement(service: Any, host: str | None, datastore: str | None) -> Any:
    spec = vim.vm.RelocateSpec()
    if host:
        spec.host = vsphere.find(service, vim.HostSystem, host)
        spec.pool = spec.host.parent.resourcePool
    if datastore:
        spec.datastore = vsphere.find(service, vim.Datastore, datastore)
    return spec


@vm.group()
def snapshot() -> None:
    """Snapshots of a virtual machine."""


def _flatten(tree: Any, depth: int = 0) -> list[tuple[int, Any]]:
    flat = []
    for node in tree or ():
        flat.append((depth, node))
        flat += _flatten(node.childSnapshotList, depth + 1)
    return flat


def _find_snapshot(machine: Any, name: str) -> Any:
    tree = machine.snapshot.rootSnapshotList if machine.snapshot else []
    nodes = [node for _, node in _flatten(tree) if node.name == name]
    if len(nodes) != 1:
        raise click.ClickException(f"{machine.name} has {len(nodes) or 'no'} snapshots called {name!r}")
    return nodes[0].snapshot


@snapshot.command("list")
@click.argument("name")
@as_json
@click.pass_obj
def snapshot_list(login: Login, name: str, json_output: bool) -> None:
    """List snapshots, children below their parents."""
    with vsphere.session(login) as service:
        machine = vsphere.find(service, vim.VirtualMachine, name)
        flat = _flatten(machine.snapshot.rootSnapshotList if machine.snapshot else [])
    listed = [{"name": n.name, "depth": d, "created": n.createTime.isoformat(), "state": n.state} for d, n in flat]
    table = Table("Snapshot", "Created", "State")
    for row in listed:
        table.add_row("  " * int(row["depth"]) + escape(str(row["name"])), str(row["created"]), str(row["state"]))
    _print(json_output, listed, table)


@snapshot.command("create")
@click.argument("name")
@click.argument("snapshot_name")
@click.option("--memory", is_flag=True, help="Keep the memory of a running machine too.")
@click.option("--quiesce", is_flag=True, help="Have the guest flush and hold its file systems.")
@click.pass_obj
def snapshot_create(login: Login, name: str, snapshot_name: str, memory: bool, quiesce: bool) -> None:
    """Take a snapshot."""
    with vsphere.session(login) as service:
        machine = vsphere.find(service, vim.VirtualMachine, name)
        task = machine.CreateSnapshot_Task(snapshot_name, "", memory, quiesce)
        vsphere.follow(task, f"Taking a snapshot of {name}")


@snapshot.command("revert")
@click.argument("name")
@click.argument("snapshot_name")
@click.pass_obj
def snapshot_revert(login: Login, name: str, snapshot_name: str) -> None:
    """Go back to a snapshot; what came after it is lost."""
    with vsphere.session(login) as service:
        target = _find_snapshot(vsphere.find(service, vim.VirtualMachine, name), snapshot_name)
        vsphere.follow(target.RevertToSnapshot_Task(), f"Reverting {name}")


@snapshot.command("remove")
@click.argument("name")
@click.argument("snapshot_name")
@click.option("--children", is_flag=True, help="Remove the snapshots taken after it too.")
@click.pass_obj
def snapshot_remove(login: Login, name: str, snapshot_name: str, children: bool) -> None:
    """Remove a snapshot; its changes are consolidated, also while the machine runs."""
    with vsphere.session(login) as service:
        target = _find_snapshot(vsphere.find(service, vim.VirtualMachine, name), snapshot_name)
        vsphere.follow(target.RemoveSnapshot_Task(children), f"Removing {snapshot_name}")
