"""Which site a command talks to, and with whose password.

Without options a command asks the lab on this machine; `--url` with `--user`, `--password-file` and `--ca` names any
other site. Passwords come from files only: a command line is seen by every user of the machine.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from landbridge.lab.build import Lab, LabError, Login

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def login_options(product: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options that choose the site whose `product` (`vcenter`, `hcx`) a command group talks to."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.option("--site", default="onprem", show_default=True, help="Site of the lab on this machine.")
        @click.option("--url", help="URL of another site's API, instead of the lab's.")
        @click.option("--user", help="User name (with --url).")
        @click.option("--password-file", type=_FILE, help="File with the password (with --url).")
        @click.option("--ca", type=_FILE, help="Certificate authority to trust (with --url).")
        @functools.wraps(command)
        def with_login(
            *args: Any,
            site: str,
            url: str | None,
            user: str | None,
            password_file: Path | None,
            ca: Path | None,
            **rest: Any,
        ) -> Any:
            if url is None:
                login = _lab_login(site, product)
            elif user and password_file and ca:
                login = Login(url, user, password_file, ca)
            else:
                raise click.UsageError("--url needs --user, --password-file and --ca too")
            return command(*args, login=login, **rest)

        return with_login

    return decorate


def _lab_login(site: str, product: str) -> Login:
    try:
        return Lab.load().login(site, product)
    except LabError as error:
        raise click.ClickException(str(error)) from error
