"""Which site a command talks to, and with whose password.

Without options a command asks the lab on this machine; `--url` with `--user`, `--password-file` and `--ca` names any
other site. Passwords come from files only: a command line is seen by every user of the machine.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click


@dataclass(frozen=True)
class Login:
    """Where an API is (`url`), who logs in, the file with the password, the file with the authority to trust."""

    site: str
    url: str
    user: str
    password_file: Path
    ca: Path


def login_options(product: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options that choose the site whose `product` (`vcenter`, `hcx`) a command group talks to."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.option("--site", default="onprem", show_default=True, help="Site of the lab on this machine.")
        @click.option("--url", help="URL of another site's API, instead of the lab's.")
        @click.option("--user", help="User name (with --url).")
        @click.option("--password-file", type=click.Path(path_type=Path, exists=True), help="File with the password.")
        @click.option("--ca", type=click.Path(path_type=Path, exists=True), help="Certificate authority to trust.")
        @functools.wraps(command)
        def with_login(
            site: str, url: str | None, user: str | None, password_file: Path | None, ca: Path | None, **rest: Any
        ) -> Any:
            if url is None:
                login = lab_login(site, product)
            elif user and password_file and ca:
                login = Login(site, url, user, password_file, ca)
            else:
                raise click.UsageError("--url needs --user, --password-file and --ca too")
            return command(login=login, **rest)

        return with_login

    return decorate
