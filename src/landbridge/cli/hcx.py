"""`landbridge hcx`: pair sites, look at the mesh, migrate, through the REST API of a site's HCX manager."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from landbridge.cli.sites import login_options
from landbridge.hcx.client import HcxClient, HcxError, HcxUnreachable, MigrationStatus
from landbridge.lab.build import Login

_MIB = 1 << 20

as_json = click.option("--json", "json_output", is_flag=True, help="Print JSON, for scripts.")


@click.group()
@click.pass_context
@login_options("hcx")
def hcx(context: click.Context, login: Login) -> None:
    """Mobility between sites. Talks to the connector (--site onprem) or the cloud manager (--site cloud)."""
    context.obj = login


def _run(login: Login, work: Callable[[HcxClient], Awaitable[None]]) -> None:
    async def session() -> None:
        async with HcxClient(login.url, login.ca) as client:
            await client.login(login.user, login.password)
            await work(client)

    try:
        asyncio.run(session())
    except HcxUnreachable as error:
        raise click.ClickException(f"the HCX manager can not be reached: {error}") from error
    except HcxError as error:
        raise click.ClickException(f"{error.error}: {error.text}") from error


def _print(json_output: bool, value: Any, table: Table) -> None:
    if json_output:
        click.echo(json.dumps(value, indent=2))
    else:
        Console().print(table)


# ------------------------------------------------------------------------------------------------ sites


@hcx.command()
@as_json
@click.pass_obj
def pairings(login: Login, json_output: bool) -> None:
    """List the paired sites."""

    async def work(client: HcxClient) -> None:
        found = await client.pairings()
        table = Table("Endpoint", "Name", "URL")
        for item in found:
            table.add_row(str(item.get("endpointId")), str(item.get("name")), str(item.get("url")))
        _print(json_output, found, table)

    _run(login, work)


@hcx.command()
@click.argument("remote_url")
@click.option("--remote-user", default="admin", show_default=True)
@click.option("--remote-password-file", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--accept-certificate", is_flag=True, help="Trust the certificate the remote manager shows.")
@click.pass_obj
def pair(login: Login, remote_url: str, remote_user: str, remote_password_file: Path, accept_certificate: bool) -> None:
    """Pair this connector with the cloud manager at REMOTE_URL."""

    password = remote_password_file.read_text().strip()

    async def work(client: HcxClient) -> None:
        await client.pair(remote_url, remote_user, password, accept_certificate=accept_certificate)
        click.echo(f"paired with {remote_url}")

    _run(login, work)


@hcx.command()
@click.argument("endpoint")
@click.option("--force", is_flag=True, help="Also when the other site does not answer.")
@click.confirmation_option(prompt="Remove the site pairing and its service mesh?")
@click.pass_obj
def unpair(login: Login, endpoint: str, force: bool) -> None:
    """Remove the pairing with ENDPOINT (see `pairings`)."""

    async def work(client: HcxClient) -> None:
        await client.unpair(endpoint, force=force)

    _run(login, work)


@hcx.command()
@as_json
@click.pass_obj
def mesh(login: Login, json_output: bool) -> None:
    """Show the service meshes and whether their tunnels are up (measured now)."""

    async def work(client: HcxClient) -> None:
        found = await client.meshes()
        table = Table("Mesh", "Service", "State", "Tunnel", "Round trip")
        for item in found:
            tunnel = item["appliances"][0]["tunnel"]
            trip = f"{tunnel['rttMs']:.1f} ms" if tunnel["state"] == "UP" else escape(tunnel["error"])
            for service in item["services"]:
                table.add_row(escape(item["name"]), service["name"], service["status"], tunnel["state"], trip)
        _print(json_output, found, table)

    _run(login, work)


# ------------------------------------------------------------------------------------------------ migrations


@hcx.command()
@click.argument("name")
@click.option("--type", "kind", type=click.Choice(["vMotion", "Cold"]), help="vMotion if the VM runs, else Cold.")
@click.option("--back", is_flag=True, help="From the remote site to this one.")
@click.option("--network", "networks", multiple=True, metavar="FROM=TO", help="Map a network; by name otherwise.")
@click.option("--host", help="Host at the target site.")
@click.option("--datastore", help="Datastore at the target site.")
@click.option("--remove-snapshots", is_flag=True, help="Consolidate snapshots first.")
@click.option("--remove-isos", is_flag=True, help="Unmount CD images first.")
@click.option("--validate", "only_validate", is_flag=True, help="Check only; move nothing.")
@as_json
@click.pass_obj
def migrate(login: Login, /, name: str, only_validate: bool, json_output: bool, **options: Any) -> None:
    """Migrate the virtual machine NAME to the other site, with live progress."""

    async def work(client: HcxClient) -> None:
        spec = await _spec(client, name, **options)
        if only_validate:
            errors = await client.validate(spec)
            click.echo(json.dumps(errors) if json_output else "\n".join(errors) or f"{name} can be migrated")
            if errors:
                raise click.exceptions.Exit(1)
            return
        status = await _follow(client, await client.start(spec), quiet=json_output)
        _report(status, json_output)

    _run(login, work)


async def _spec(client: HcxClient, name: str, **options: Any) -> dict[str, Any]:
    back = options["back"]
    machine = _named(await client.inventory("virtualmachines", remote=back), name, "virtual machine")
    theirs = await client.inventory("networks", remote=not back)
    chosen = dict(entry.partition("=")[::2] for entry in options["networks"])
    mapped = {
        network["value"]: _id(_named(theirs, chosen.get(network["name"], network["name"]), "network"))
        for network in machine["network"]
    }
    placement = {}
    if options["host"]:
        hosts = _hosts(await client.inventory("vc/list", remote=not back))
        placement["host"] = _id(_named(hosts, options["host"], "host"))
    datastore = ""
    if options["datastore"]:
        stores = await client.inventory("vc/datastores/query", remote=not back)
        datastore = _id(_named(stores, options["datastore"], "datastore"))
    return await client.spec(
        _id(machine),
        networks=mapped,
        kind=options["kind"] or ("vMotion" if machine["powerState"] == "poweredOn" else "Cold"),
        back=back,
        placement=placement,
        datastore=datastore,
        remove_snapshots=options["remove_snapshots"],
        remove_isos=options["remove_isos"],
    )


def _hosts(tree: list[dict[str, Any]]) -> list[dict[str, Any]]:
    below = [host for item in tree for host in _hosts(item["children"])]
    return [item for item in tree if item["entityType"] == "HostSystem"] + below


def _id(item: dict[str, Any]) -> str:
    return str(item["entity_id"])


def _named(items: list[dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    found = [item for item in items if item["name"] == name]
    if len(found) == 1:
        return found[0]
    known = ", ".join(sorted(str(item["name"]) for item in items)) or "none"
    raise click.ClickException(f"{len(found) or 'no'} {what} is called {name!r} (there are: {known})")


class _Bytes(ProgressColumn):
    """Bytes done of total, and the rate where there is one."""

    def render(self, task: Task) -> Text:
        rate = task.fields.get("rate") or 0
        text = f"{task.completed / _MIB:,.0f} of {(task.total or 0) / _MIB:,.0f} MiB"
        return Text(text + (f", {rate / _MIB:,.0f} MiB/s" if rate else ""))


async def _follow(client: HcxClient, migration: str, *, quiet: bool) -> MigrationStatus:
    """Show a migration's phase, bytes, rates and the time left until it is over."""
    console = Console(stderr=True, quiet=quiet)
    columns = (TextColumn("{task.description:24}"), BarColumn(30), _Bytes(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bars:
        disk = bars.add_task("disk", total=None, note="")
        memory = bars.add_task("memory", total=None, note="")
        async for status in client.follow(migration, interval=0.25):
            left = f"{status.seconds_left:.0f} s left" if status.seconds_left else ""
            dirty = f"dirty {status.dirty_rate / _MIB:.0f} MiB/s" if status.dirty_rate else ""
            bars.update(
                disk,
                description=f"{status.vm}: {status.phase}",
                completed=status.disk_done,
                total=status.disk_total or None,
                rate=status.rate,
                note=left,
            )
            bars.update(memory, completed=status.memory_done, total=status.memory_total or None, rate=0, note=dirty)
    return status


def _report(status: MigrationStatus, json_output: bool) -> None:
    if json_output:
        click.echo(json.dumps(vars(status), indent=2))
    elif status.state == "MIGRATED":
        silence = f", the guest paused for {status.silence_ms:.0f} ms" if status.silence_ms is not None else ""
        click.echo(f"{status.vm} migrated in {status.elapsed:.1f} s{silence}")
    if status.state != "MIGRATED":
        raise click.ClickException(f"{status.vm}: {status.state}: {status.error}")


@hcx.command("list")
@as_json
@click.pass_obj
def list_(login: Login, json_output: bool) -> None:
    """List migrations."""

    async def work(client: HcxClient) -> None:
        found = await client.query()
        table = Table("VM", "Type", "State", "Phase", "Percent", "Seconds")
        table.add_column("Id", overflow="fold")
        for status in found:
            cells = (escape(status.vm), status.type, status.state, status.phase, str(status.percent))
            table.add_row(*cells, f"{status.elapsed:.1f}", status.id)
        _print(json_output, [vars(status) for status in found], table)

    _run(login, work)


@hcx.command()
@click.argument("migration")
@click.pass_obj
def cancel(login: Login, migration: str) -> None:
    """Cancel a migration before its switchover; the VM stays where it is."""

    async def work(client: HcxClient) -> None:
        await client.cancel(migration)
        await _follow(client, migration, quiet=False)

    _run(login, work)
