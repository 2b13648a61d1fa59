"""Names of inventory objects: what is allowed, and how the characters that build paths are written."""

import re

from pyVmomi import vim

_LONGEST = 80  # characters, as vSphere; the written form counts
_ESCAPES = {"/": "%2f", "\\": "%5c"}
_BARE_PERCENT = re.compile(r"%(?!2[fF]|5[cC]|25)")


def written_name(name: str | None, entity: vim.ManagedEntity | None = None) -> str:
    """A name as the inventory keeps it: slash, backslash and percent escaped (`a/b` is `a%2fb`), as vCenter does.

    InvalidName for an empty or blank one, one with control characters, or one of more than 80 characters.
    """
    written = _BARE_PERCENT.sub("%25", name or "")
    for character, escape in _ESCAPES.items():
        written = written.replace(character, escape)
    reason = ""
    if not written.strip():
        reason = "is empty"
    elif any(ord(character) < 32 or 0x7F <= ord(character) <= 0x9F for character in written):
        reason = "has control characters in it"
    elif len(written) > _LONGEST:
        reason = f"is longer than {_LONGEST} characters"
    if reason:
        raise vim.fault.InvalidName(name=_printable(name or ""), entity=entity, msg=f"The name {name!r} {reason}.")
    return written


def _printable(name: str) -> str:
    """XML can not carry control characters, not even in a fault about them."""
    return "".join(character if ord(character) >= 32 else "?" for character in name)
