"""The configuration of a relay's HAProxy, written once: everything that changes later goes over the admin socket.

Slots are declared beforehand, since HAProxy 2.6 can neither add a listener at run time nor choose a UNIX socket by
`set-dst`. An inbound slot is a backend with one UNIX socket; an outbound slot is a UNIX listener and a backend whose
server gets its address by `set server` and its name through a map.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from landbridge.pki import Identity

BYTES_TABLE = "bytes"


@dataclass(frozen=True)
class Side:
    """A network the relay is on: it listens there, and goes out there, as `identity`.

    Streams exposed on this side are called `<stream>.<suffix>`; the identity's certificate carries `*.<suffix>`.

    On a `foreign` side the peers are of other sites: an authority comes with each stream, and only those of streams
    that are open count. A side that `passes` also leads streams on to other relays without opening them: their TLS
    is between the relays at their ends.
    """

    name: str
    address: str
    port: int
    identity: Identity
    suffix: str
    foreign: bool = False
    passes: bool = False


@dataclass(frozen=True)
class Layout:
    """Where a relay's files are. UNIX socket paths end at 107 bytes, so `directory` has to be short."""

    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "haproxy.cfg"

    @property
    def log(self) -> Path:
        return self.directory / "haproxy.log"

    @property
    def admin(self) -> Path:
        return self.directory / "admin"

    @property
    def names(self) -> Path:
        """The map from an outbound slot to the name it asks for."""
        return self.directory / "names.map"

    def routes(self, side: str) -> Path:
        """The map from a name asked for on `side` to the slot it goes to."""
        return self.directory / f"{side}.map"

    def passing(self, side: str) -> Path:
        """The same for names that pass `side` unopened."""
        return self.directory / f"{side}-passing.map"

    def peers(self, side: str) -> Path:
        """The authorities whose certificates count on a foreign side, PEM."""
        return self.directory / f"{side}-peers.pem"

    @property
    def vouchers(self) -> Path:
        """For each stream on a foreign side, the authority that came with it (JSON)."""
        return self.directory / "vouchers.json"

    def socket(self, slot: str) -> Path:
        return self.directory / slot


def inbound_slots(count: int) -> list[str]:
    return [f"in{number:03}" for number in range(count)]


def outbound_slots(side: str, count: int) -> list[str]:
    return [f"{side}{number:03}" for number in range(count)]


def passing_slots(side: str, count: int) -> list[str]:
    return [f"pass-{side}{number:03}" for number in range(count)]


def render(layout: Layout, sides: list[Side], slots: int) -> str:
    """The whole configuration file; it changes when an identity's certificate does, so that a restart is seen due."""
    parts = [_head(layout)]
    parts += [_listener(layout, side) for side in sides]
    parts += [f"backend {slot}\n  server s unix@{layout.socket(slot)}\n" for slot in inbound_slots(slots)]
    parts += [_outbound(layout, side, slots) for side in sides]
    parts += [_passage(layout, side, slots) for side in sides if side.passes]
    return "\n".join(parts)


def _head(layout: Layout) -> str:
    threads = max(1, min(4, os.cpu_count() or 1))
    return f"""global
  stats socket unix@{layout.admin} mode 600 level admin
  stats timeout 1h
  log stdout format raw local0
  nbthread {threads}
  maxconn 2048
  hard-stop-after 1s
  # A TLS record is 16 KiB: eight of them a wake-up. Twice or half as much is slower over a chain of four relays.
  tune.bufsize 131072
  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
  ssl-default-server-options ssl-min-ver TLSv1.3
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256

defaults
  mode tcp
  log global
  # Who asks again is QEMU or an agent, which know how long it makes sense.
  retries 0
  # Only what failed is worth a line.
  option dontlog-normal
  option contstats
  timeout connect 10s
  # A stream may be silent for as long as a copy takes; a dead peer is found by keep-alive and unacknowledged data.
  timeout client 20d
  timeout server 20d
  timeout client-fin 30s
  timeout server-fin 30s
  option clitcpka
  option srvtcpka
  clitcpka-idle 10s
  clitcpka-intvl 5s
  clitcpka-cnt 3
  srvtcpka-idle 10s
  srvtcpka-intvl 5s
  srvtcpka-cnt 3

backend {BYTES_TABLE}
  stick-table type string len 253 size 4k expire 1d store bytes_in_cnt,bytes_out_cnt
"""


def _listener(layout: Layout, side: Side) -> str:
    # The route is read before a backend is chosen; a name nobody opened ends here.
    where = f"unix@{layout.socket(_opened(side))} mode 600" if side.passes else f"{side.address}:{side.port} tcp-ut 20s"
    return f"""# {side.name}: certificate {_fingerprint(side.identity)}
frontend from-{side.name}
  bind {where} ssl crt {side.identity.bundle} ca-file {_authorities(layout, side)} verify required
  tcp-request content set-var(sess.slot) ssl_fc_sni,lower,map_str({layout.routes(side.name)})
  tcp-request content reject if !{{ var(sess.slot) -m found }}
  tcp-request content track-sc0 ssl_fc_sni,lower table {BYTES_TABLE}
  use_backend %[var(sess.slot)]
"""


def _outbound(layout: Layout, side: Side, slots: int) -> str:
    named = outbound_slots(side.name, slots)
    binds = "\n".join(f"  bind unix@{layout.socket(slot)} mode 600 name {slot}" for slot in named)
    frontend = f"""frontend to-{side.name}
{binds}
  tcp-request content reject if !{{ so_name,map_str({layout.names}) -m found }}
  tcp-request content track-sc0 so_name,map_str({layout.names}) table {BYTES_TABLE}
  use_backend %[so_name]
"""
    # With SNI set HAProxy checks the peer's certificate against it. `verifyhost` counts only without SNI: then nothing
    # matches. A resumed session would skip the check of the certificate, hence no reuse.
    server = (
        f"server s 0.0.0.0:1 tcp-ut 20s ssl crt {side.identity.bundle} ca-file {_authorities(layout, side)}"
        f" verify required no-ssl-reuse verifyhost unassigned.invalid sni be_name,map_str({layout.names})"
    )
    return frontend + "".join(f"\nbackend {slot}\n  {server}\n" for slot in named)


def _passage(layout: Layout, side: Side, slots: int) -> str:
    # The name stands in the first TLS record, in the clear. Names of this relay's own are opened here, those that were
    # announced pass, by splice: the kernel moves the bytes from socket to socket. All others end.
    own = f"{{ req.ssl_sni,lower -m end .{side.suffix.lower()} }}"
    known = "{ var(sess.slot) -m found }"
    frontend = f"""frontend pass-{side.name}
  bind {side.address}:{side.port} tcp-ut 20s
  option splice-auto
  tcp-request inspect-delay 10s
  tcp-request content reject if !{{ req.ssl_hello_type 1 }}
  tcp-request content set-var(sess.slot) req.ssl_sni,lower,map_str({layout.passing(side.name)})
  tcp-request content reject if !{known} !{own}
  tcp-request content track-sc0 req.ssl_sni,lower table {BYTES_TABLE} if {known}
  use_backend %[var(sess.slot)] if {known}
  default_backend {_opened(side)}

backend {_opened(side)}
  server s unix@{layout.socket(_opened(side))}
"""
    return frontend + "".join(
        f"\nbackend {slot}\n  server s 0.0.0.0:1 tcp-ut 20s\n" for slot in passing_slots(side.name, slots)
    )


def _opened(side: Side) -> str:
    """The backend, and the socket, of streams that are opened on a side that passes the others."""
    return f"open-{side.name}"


def _authorities(layout: Layout, side: Side) -> Path:
    return layout.peers(side.name) if side.foreign else side.identity.ca


def _fingerprint(identity: Identity) -> str:
    digest = hashlib.sha256(identity.certificate.read_bytes() + identity.ca.read_bytes())
    return digest.hexdigest()[:32]
