"""The relay of a host or an interconnect appliance: one HAProxy process that outlives who started it."""

import asyncio
import ipaddress
import os
import re
import secrets
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from landbridge.relay.admin import Admin, AdminError
from landbridge.relay.config import (
    BYTES_TABLE,
    Layout,
    Side,
    inbound_slots,
    outbound_slots,
    passing_slots,
    render,
)
from landbridge.relay.endpoint import Endpoint
from landbridge.relay.vouchers import Vouchers

_STREAM = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
_NAME = re.compile(r"^[a-z0-9.-]{1,253}$")
_START_TIMEOUT = 20.0  # seconds; HAProxy starts in 0.1 s on an idle machine
_SOCKET_PATH_LIMIT = 107


class RelayError(Exception):
    """The relay can not do what was asked; the message says why."""


@dataclass(frozen=True)
class Counters:
    """Bytes a stream carried: `received` came in where it was asked for, `sent` went back."""

    received: int
    sent: int


def stream_name(move: str, channel: str) -> str:
    """A name for a stream that knowing the move's id does not give away; one DNS label."""
    prefix = re.sub(r"[^a-z0-9]", "", move.lower())[:12] or "s"
    return f"{prefix}-{secrets.token_hex(12)}-{channel}"[:63]


class Relay:
    """Carries named streams between UNIX sockets of this machine and TCP ports of others.

    What is open lives in HAProxy alone: a restarted owner that calls `start` finds the process and its streams.
    """

    def __init__(self, directory: Path, sides: list[Side], slots: int = 64) -> None:
        """`directory` is for sockets and configuration (short, ours alone). `slots`: streams at once, a direction."""
        self._layout = Layout(directory)
        self._sides = {side.name: side for side in sides}
        self._slots = slots
        self._admin = Admin(self._layout.admin)
        self._vouchers = Vouchers(self._layout)
        self._lock = asyncio.Lock()
        self._reaper: asyncio.Task[int] | None = None

    # ---------------------------------------------------------------------------------- the process

    async def start(self) -> None:
        """Find our HAProxy or start it; if sides or certificates changed, start it anew, which ends its streams."""
        async with self._lock:
            self._check()
            wanted = render(self._layout, list(self._sides.values()), self._slots)
            if await self._alive():
                if self._layout.config.exists() and self._layout.config.read_text() == wanted:
                    await self._stop_trusting()
                    return
                await self._stop()
            await self._launch(wanted)

    async def stop(self) -> None:
        """End HAProxy and with it every stream."""
        async with self._lock:
            await self._stop()

    async def alive(self) -> bool:
        return await self._alive()

    def _check(self) -> None:
        longest = max(len(os.fsencode(self._layout.socket(f"{name}000"))) for name in ["admin", "in", *self._sides])
        if longest > _SOCKET_PATH_LIMIT - 20:
            # HAProxy binds UNIX sockets under a temporary name that is longer.
            raise RelayError(f"{self._layout.directory} is too long for UNIX sockets; use a directory near /run")
        for side in self._sides.values():
            if not re.fullmatch(r"[a-z]{1,12}", side.name) or side.name in ("in", "admin"):
                raise RelayError(f"{side.name!r} does not name a side: up to twelve letters, not `in` or `admin`")

    async def _alive(self) -> bool:
        try:
            await self._admin.pid()
        except AdminError:
            return False
        return True

    async def _launch(self, config: str) -> None:
        layout = self._layout
        layout.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        layout.directory.chmod(0o700)
        for file in [layout.names, *(map_file(side) for side in self._sides for map_file in self._inward)]:
            file.write_text("")
        self._vouchers.clear()
        for side in self._sides.values():
            if side.foreign:
                # HAProxy does not start without one. The site's own is no stranger.
                layout.peers(side.name).write_text(side.identity.ca.read_text())
        layout.config.write_text(config)
        layout.config.chmod(0o600)
        descriptor = os.open(layout.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                "haproxy",
                "-q",
                "-db",
                "-f",
                str(layout.config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,  # what ends our process group must not end the streams
            )
        finally:
            os.close(descriptor)
        self._reaper = asyncio.create_task(process.wait(), name="relay-reaper")
        deadline = asyncio.get_running_loop().time() + _START_TIMEOUT
        while not await self._alive():
            if process.returncode is not None:
                tail = layout.log.read_text(errors="replace")[-800:]
                raise RelayError(f"HAProxy ended with {process.returncode}: {tail}")
            if asyncio.get_running_loop().time() > deadline:
                process.kill()
                raise RelayError(f"HAProxy did not open {layout.admin} within {_START_TIMEOUT:.0f} s")
            await asyncio.sleep(0.02)

    async def _stop(self) -> None:
        try:
            pid = await self._admin.pid()
        except AdminError:
            return
        # The process that answered on our socket is ours; a handle on it rules out that its number is used again.
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            if not await asyncio.to_thread(_ended, handle, 5.0):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                await asyncio.to_thread(_ended, handle, 5.0)
        except ProcessLookupError:
            pass
        finally:
            os.close(handle)
        self._layout.admin.unlink(missing_ok=True)

    # ---------------------------------------------------------------------------------- streams

    def endpoint(self, side: str, stream: str) -> Endpoint:
        """How others reach `stream` on `side`."""
        where = self._side(side)
        authority = where.identity.ca.read_text() if where.foreign else ""
        name = f"{_checked(stream)}.{where.suffix}".lower()
        return Endpoint(address=where.address, port=where.port, name=name, authority=authority)

    async def expose(self, side: str, stream: str, authority: str = "", beside: str = "") -> Path:
        """Let `stream` in on `side`; returns the UNIX socket where somebody has to listen for it.

        `authority` (PEM) vouches for who connects on a foreign side. `beside` names another exposed stream whose socket
        this one shares. Asked again for the same stream, the answer is the same.
        """
        name = self.endpoint(side, stream).name
        async with self._lock:
            await self._trust(side, name, authority)
            routes = await self._map(self._layout.routes(side))
            slot = routes.get(name)
            if slot is None:
                shared = routes.get(self.endpoint(side, beside).name) if beside else None
                slot = shared or await self._free_inbound()
                await self._order(f"add map {self._layout.routes(side)} {name} {slot}")
            return self._layout.socket(slot)

    async def dial(self, side: str, endpoint: Endpoint) -> Path:
        """A UNIX socket that leads to `endpoint`, out of `side`; each connection to it is one of its own.

        Who answers there must show a certificate that carries `endpoint.name`, of the side's authority, or on a
        foreign side of the endpoint's; if not, the connection is closed. Asked again, the answer is the same.
        """
        name = _name(endpoint)
        async with self._lock:
            await self._trust(side, name, endpoint.authority)
            return self._layout.socket(await self._outbound(outbound_slots(side, self._slots), endpoint))

    async def forward(self, in_side: str, out_side: str, to: Endpoint) -> Endpoint:
        """Let the stream `to` pass unopened from `in_side` out of `out_side`; returns how others reach it here.

        Both ends of the stream see each other's certificates, and this relay sees neither key nor content.
        """
        if not (self._side(in_side).passes and self._side(out_side).passes):
            raise RelayError(f"streams do not pass from {in_side!r} to {out_side!r} here")
        here = self._side(in_side)
        name = _name(to)
        async with self._lock:
            slot = await self._outbound(passing_slots(out_side, self._slots), to)
            passing = self._layout.passing(in_side)
            routes = await self._map(passing)
            if routes.get(name) not in (None, slot):
                raise RelayError(f"{name} leads elsewhere already: close it first")
            if name not in routes:
                await self._order(f"add map {passing} {name} {slot}")
        return to.model_copy(update={"address": here.address, "port": here.port})

    async def close(self, stream: str) -> None:
        """Close a stream by its name or its endpoint's: no new connection, and those it has end.

        Closes it in every role it has here: exposed, dialled, forwarded. A stream nobody knows is no error.
        """
        async with self._lock:
            slots = set[str]()
            orders = list[str]()
            for file in [map_file(side) for side in self._sides for map_file in self._inward]:
                for name, slot in (await self._map(file)).items():
                    if _is(stream, name):
                        orders.append(f"del map {file} {name}")
                        slots.add(slot)
            for slot, name in (await self._map(self._layout.names)).items():
                if slot in slots or _is(stream, name):
                    orders.append(f"del map {self._layout.names} {slot}")
                    slots.add(slot)
            orders += [f"shutdown sessions server {slot}/s" for slot in sorted(slots)]
            if orders:
                await self._order(*orders)
            for side, pem in self._vouchers.drop(lambda name: _is(stream, name)).items():
                await self._vouch(side, pem)

    async def streams(self) -> set[str]:
        """The full names of all streams that are open: exposed, forwarded, dialled."""
        names = set((await self._map(self._layout.names)).values())
        for side in self._sides:
            for map_file in self._inward:
                names |= set(await self._map(map_file(side)))
        return names

    async def counters(self) -> dict[str, Counters]:
        """Bytes carried by each stream of the last day, by the full name it was asked for here.

        HAProxy counts when it wakes a stream, which under steady flow may be as late as the end of a connection.
        """
        carried = {}
        for line in (await self._ask(f"show table {BYTES_TABLE}")).splitlines():
            # 0x...: key=NAME use=0 exp=... bytes_in_cnt=1 bytes_out_cnt=2
            fields = dict(field.split("=", 1) for field in line.split() if "=" in field)
            if "key" in fields:
                carried[fields["key"]] = Counters(int(fields["bytes_in_cnt"]), int(fields["bytes_out_cnt"]))
        return carried

    # ---------------------------------------------------------------------------------- inside

    def _side(self, name: str) -> Side:
        side = self._sides.get(name)
        if side is None:
            raise RelayError(f"the relay has no side {name!r}; it has {', '.join(sorted(self._sides))}")
        return side

    @property
    def _inward(self) -> tuple[Callable[[str], Path], ...]:
        """The maps of what may come in on a side."""
        return self._layout.routes, self._layout.passing

    async def _free_inbound(self) -> str:
        """An inbound slot that no stream of any side has, and nobody listens on."""
        taken = set[str]()
        for side in self._sides:
            taken |= set((await self._map(self._layout.routes(side))).values())
        slot = _free(inbound_slots(self._slots), taken, "inbound")
        self._layout.socket(slot).unlink(missing_ok=True)
        return slot

    async def _trust(self, side: str, name: str, authority: str) -> None:
        """Let peers of `authority` show up for the stream `name`, where the side's own does not vouch for them."""
        foreign = self._side(side).foreign
        if bool(authority) != foreign:
            raise RelayError(
                f"{name} needs an authority that vouches for its other end"
                if foreign
                else f"{name} came with an authority, but side {side!r} has its own"
            )
        if not foreign:
            return
        try:
            pem = self._vouchers.add(side, name, authority)
        except ValueError as error:
            raise RelayError(f"the authority of {name} is not a certificate authority in PEM: {error}") from error
        if pem is not None:
            await self._vouch(side, pem)

    async def _stop_trusting(self) -> None:
        """Drop authorities whose streams are closed: a process before us may have died in between."""
        known = await self.streams()
        for side, pem in self._vouchers.drop(lambda name: name not in known).items():
            await self._vouch(side, pem)

    async def _vouch(self, side: str, pem: str) -> None:
        """Make `pem` the authorities of a foreign side; empty: those it had at its start."""
        pem = pem or self._side(side).identity.ca.read_text()
        try:
            await self._admin.replace_authorities(self._layout.peers(side), pem)
        except AdminError as error:
            raise RelayError(str(error)) from error

    async def _outbound(self, slots: list[str], endpoint: Endpoint) -> str:
        """The slot of `slots` that leads to an endpoint."""
        address = ipaddress.ip_address(endpoint.address)
        name = _name(endpoint)
        if not _NAME.match(name) or not 0 < endpoint.port < 65536:
            raise RelayError(f"{endpoint!r} is not where a stream can be reached")
        names = await self._map(self._layout.names)
        for slot, known in names.items():
            if known == name and slot in slots:
                return slot
        slot = _free(slots, set(names), "outbound")
        await self._order(
            f"set server {slot}/s addr {address} port {endpoint.port}", f"add map {self._layout.names} {slot} {name}"
        )
        return slot

    async def _map(self, file: Path) -> dict[str, str]:
        try:
            return await self._admin.map(file)
        except AdminError as error:
            raise RelayError(str(error)) from error

    async def _order(self, *commands: str) -> None:
        try:
            await self._admin.order(*commands)
        except AdminError as error:
            raise RelayError(str(error)) from error

    async def _ask(self, command: str) -> str:
        try:
            return await self._admin.ask(command)
        except AdminError as error:
            raise RelayError(str(error)) from error


def _checked(stream: str) -> str:
    if not _STREAM.match(stream):
        raise RelayError(f"{stream!r} is no stream name: one DNS label of lower-case letters, digits and hyphens")
    return stream


def _name(endpoint: Endpoint) -> str:
    return endpoint.name.lower()


def _is(stream: str, name: str) -> bool:
    return name == stream or name.partition(".")[0] == stream


def _free(slots: list[str], taken: set[str], direction: str) -> str:
    for slot in slots:
        if slot not in taken:
            return slot
    raise RelayError(f"all {len(slots)} {direction} streams of the relay are in use: wait until another move ends")


def _ended(handle: int, timeout: float) -> bool:
    """Whether the process of a pidfd ends within `timeout` seconds."""
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    return bool(poller.poll(timeout * 1000))
