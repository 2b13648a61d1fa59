"""Which authority vouches for whom on a foreign side: kept in a file, so that it lives as long as the streams."""

import json
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from landbridge.relay.config import Layout


class Vouchers:
    """By side, by the stream's full name: the authority (PEM) that came with it."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def clear(self) -> None:
        self._write({})

    def add(self, side: str, name: str, authority: str) -> str | None:
        """Note an authority; returns all authorities of the side (PEM) if that changed them.

        ValueError if it is not the certificate of an authority.
        """
        pem = _checked(authority)
        known = self._read()
        before = _all(known.get(side, {}))
        known.setdefault(side, {})[name] = pem
        self._write(known)
        after = _all(known[side])
        return after if after != before else None

    def drop(self, dropped: Callable[[str], bool]) -> dict[str, str]:
        """Forget streams; returns the sides whose authorities changed, and those that are left of them (PEM)."""
        before = self._read()
        after = {
            side: {name: pem for name, pem in names.items() if not dropped(name)} for side, names in before.items()
        }
        if after != before:
            self._write(after)
        return {side: _all(names) for side, names in after.items() if _all(names) != _all(before[side])}

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            known: dict[str, dict[str, str]] = json.loads(self._layout.vouchers.read_text())
        except FileNotFoundError:
            return {}
        return known

    def _write(self, known: dict[str, dict[str, str]]) -> None:
        new = self._layout.vouchers.with_suffix(".new")
        new.write_text(json.dumps(known))
        new.rename(self._layout.vouchers)


def _checked(authority: str) -> str:
    """The same certificate, written by us: what came goes into a command and a file of HAProxy's."""
    certificate = x509.load_pem_x509_certificate(authority.encode())
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = None
    if constraints is None or not constraints.ca:
        raise ValueError(f"{certificate.subject.rfc4514_string()} may not sign certificates")
    return certificate.public_bytes(Encoding.PEM).decode()


def _all(names: dict[str, str]) -> str:
    return "".join(sorted(set(names.values())))
