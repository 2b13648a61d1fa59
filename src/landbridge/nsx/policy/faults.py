"""Errors as NSX answers them: `{"httpStatus", "error_code", "module_name", "error_message"}`."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

# NSX's own numbers; clients tell errors apart by them.
INVALID_FIELD = 255
INVALID_PATH = 500012
IN_USE = 500030
OVERLAP = 500105
SEGMENT_HAS_VMS = 503040
_NOT_FOUND = 600
_STALE = 604
_BAD_TOKEN = 98
_BAD_CREDENTIALS = 403
_NOT_ALLOWED = 289
_MANY = 20  # objects that a message names at most


class Fault(Exception):  # noqa: N818 - what the API calls it
    """An answer that is an error: HTTP status, NSX's number and a sentence for people."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def body(self) -> dict[str, Any]:
        return {
            "httpStatus": HTTPStatus(self.status).name,
            "error_code": self.code,
            "module_name": "policy",
            "error_message": self.message,
        }


def invalid(message: str) -> Fault:
    """A field is not what it must be."""
    return Fault(400, INVALID_FIELD, f"Field level validation errors: {{{message}}}")


def missing(path: str) -> Fault:
    return Fault(
        404, _NOT_FOUND, f"The requested object : {path} could not be found. Object identifiers are case sensitive."
    )


def unknown(path: str) -> Fault:
    """Nothing in this API lives there."""
    return Fault(404, _NOT_FOUND, f"The path=[{path}] is invalid or not supported")


def bad_path(path: str, why: str) -> Fault:
    """A body names an object that isn't there or is of the wrong type."""
    return Fault(400, INVALID_PATH, f"The path=[{path}] is invalid: {why}")


def stale(given: int | None, current: int) -> Fault:
    said = "no revision" if given is None else f"revision {given}"
    return Fault(
        412,
        _STALE,
        "Fetch the latest copy of the object and retry: it was changed by somebody else, or the update gave no "
        f"_revision. The update has {said}, the system {current}.",
    )


def in_use(path: str, users: Iterable[str]) -> Fault:
    named = sorted(users)
    more = f" and {len(named) - _MANY} more" if len(named) > _MANY else ""
    return Fault(
        400,
        IN_USE,
        f"The object path=[{path}] cannot be deleted as either it has children or it is being referenced by other "
        f"objects path=[{','.join(named[:_MANY])}]{more}.",
    )


def read_only(path: str) -> Fault:
    return Fault(403, _NOT_ALLOWED, f"The object path=[{path}] belongs to the system and can not be changed here.")


def not_authorized(user: str) -> Fault:
    return Fault(
        403,
        _NOT_ALLOWED,
        f"User {user} is not authorized to perform this operation on the application. Please contact the system "
        "administrator to get access.",
    )


def bad_credentials() -> Fault:
    """NSX does not say which of the reasons it is."""
    return Fault(
        403, _BAD_CREDENTIALS, "The credentials were incorrect or the account specified has been locked for a while."
    )


def no_credentials() -> Fault:
    return Fault(
        401, 401, "Authentication required: log in at /api/session/create, or the session has expired, or use Basic."
    )


def bad_token() -> Fault:
    return Fault(403, _BAD_TOKEN, "The X-XSRF-TOKEN header is missing or is not this session's.")
