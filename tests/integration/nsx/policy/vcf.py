"""Broadcom's own client of NSX, vcf-nsx, against a manager: Basic credentials, or a session."""

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import requests

# Its modules have no types; imported so, they are `Any` all the way.
model: Any = import_module("vcf.nsx.model_client")
fabric_client: Any = import_module("vcf.nsx.api.v1.fabric_client")
infra_client: Any = import_module("vcf.nsx.policy.api.v1.infra_client")
search_client: Any = import_module("vcf.nsx.policy.api.v1.search_client")
domains_client: Any = import_module("vcf.nsx.policy.api.v1.infra.domains_client")
realized_state_client: Any = import_module("vcf.nsx.policy.api.v1.infra.realized_state_client")
nat_client: Any = import_module("vcf.nsx.policy.api.v1.infra.tier_1s.nat_client")
_stub: Any = import_module("vmware.vapi.bindings.stub")
_connect: Any = import_module("vmware.vapi.lib.connect")
_credentials: Any = import_module("vmware.vapi.security.user_password")


class Where(Protocol):
    """Where a manager is, and whose certificates it shows."""

    @property
    def url(self) -> str: ...
    @property
    def ca(self) -> Path: ...


def _web(manager: Where) -> requests.Session:
    web = requests.Session()
    web.trust_env = False
    web.verify = str(manager.ca)
    return web


def connect(manager: Where, user: tuple[str, str]) -> Any:
    """A configuration for the client's services, with Basic credentials on each call."""
    connector = _connect.get_requests_connector(_web(manager), msg_protocol="rest", url=manager.url, timeout=30)
    connector.set_security_context(_credentials.create_user_password_security_context(*user))
    return _stub.StubConfiguration(connector)


def connect_with_session(manager: Where, user: tuple[str, str]) -> Any:
    """The same after a login, with cookie and token."""
    web = _web(manager)
    form = {"j_username": user[0], "j_password": user[1]}
    answer = web.post(f"{manager.url}/api/session/create", data=form, timeout=30)
    answer.raise_for_status()
    web.headers["X-XSRF-TOKEN"] = answer.headers["X-XSRF-TOKEN"]
    return _stub.StubConfiguration(
        _connect.get_requests_connector(web, msg_protocol="rest", url=manager.url, timeout=30)
    )


def answered(error: Any) -> tuple[int, int, str]:
    """HTTP status, NSX's code and its message: the client's class has no fields for them, but keeps the answer."""
    value = error.get_error_value()
    return error.get_status_code(), value.get_field("error_code").value, value.get_field("error_message").value
