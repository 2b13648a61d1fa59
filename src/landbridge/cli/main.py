"""The `landbridge` command."""

import click


@click.group()
def main() -> None:
    """Carry VMs into a private cloud that answers to vSphere's tools."""
