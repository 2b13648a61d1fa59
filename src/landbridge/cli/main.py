"""The `landbridge` command."""

import importlib
from typing import ClassVar

import click


class _Groups(click.Group):
    """Command groups, each imported when it is used: pyVmomi alone takes most of a second."""

    groups: ClassVar[dict[str, str]] = {
        "lab": "Two sites on this machine.",
        "vm": "Virtual machines, through the vSphere API.",
        "hcx": "Mobility between sites, through HCX's API.",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.groups)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in self.groups:
            return None
        group: click.Command = getattr(importlib.import_module(f"landbridge.cli.{cmd_name}"), cmd_name)
        return group

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(self.groups.items()))


@click.command(cls=_Groups)
@click.version_option(package_name="landbridge")
def main() -> None:
    """Carry VMs into a private cloud that answers to vSphere's tools."""
