"""PropertyCollector: reading many properties at once, and waiting for their changes."""

import asyncio
import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from pyVmomi import vmodl

from landbridge.vcenter.calls import Call
from landbridge.vcenter.collecting import authorize, object_contents
from landbridge.vcenter.filters import PropertyFilter
from landbridge.vcenter.managed import Managed
from landbridge.vcenter.selection import Selected, select
from landbridge.vcenter.sessions import Session, SessionObject
from landbridge.vmodl.responses import Raw
from landbridge.vmodl.writer import escape, reference

if TYPE_CHECKING:
    from landbridge.vcenter.inventory import Inventory

_TOKENS_KEPT = 100
# A wait without a limit still comes back: clients ask again, and proxies do not cut it.
_LONGEST_WAIT = 1800.0


class _Collecting:
    """What one collector of one session holds: filters, versions, retrievals that are not at their end."""

    def __init__(self) -> None:
        self.filters: dict[str, PropertyFilter] = {}
        self.tokens: OrderedDict[str, tuple[list[Selected], int]] = OrderedDict()
        self.version = 0
        # The last answer, for a client that did not get it and asks again.
        self.last: tuple[str, Raw] | None = None
        # Updates found but not yet answered, because of maxObjectUpdates.
        self.pending: list[tuple[PropertyFilter, str]] = []
        self.seen = -1
        self.cancelled: asyncio.Event | None = None
        self.numbers = itertools.count(1)


class _Methods(Managed):
    """The methods of collectors; `_state` says whose filters they are about."""

    durable = False

    def _state(self, call: Call) -> _Collecting:
        raise NotImplementedError

    # -- reading ------------------------------------------------------------------------------------------

    async def retrieve_properties(self, call: Call, spec_set: list[Any]) -> Raw:
        return Raw(await object_contents(call, _select(call, spec_set), "returnval"))

    async def retrieve_properties_ex(self, call: Call, spec_set: list[Any], options: Any = None) -> Raw | None:
        selected = _select(call, spec_set)
        if not selected:
            return None
        page = options.maxObjects if options is not None and options.maxObjects else len(selected)
        if page < 0:
            raise vmodl.fault.InvalidArgument(invalidProperty="options.maxObjects", msg="maxObjects is negative.")
        return await self._page(call, selected, page)

    async def continue_retrieve_properties_ex(self, call: Call, token: str) -> Raw:
        rest, page = self._take(call, token)
        objects = call.inventory.objects
        return await self._page(call, [each for each in rest if each.managed.moid in objects], page)

    async def cancel_retrieve_properties_ex(self, call: Call, token: str) -> None:
        self._take(call, token)

    async def _page(self, call: Call, selected: list[Selected], page: int) -> Raw:
        token = ""
        if len(selected) > page:
            state = self._state(call)
            number = f"{next(state.numbers)}-{len(selected) - page}"
            state.tokens[number] = (selected[page:], page)
            while len(state.tokens) > _TOKENS_KEPT:
                state.tokens.popitem(last=False)
            token = f"<token>{number}</token>"
        objects = await object_contents(call, selected[:page], "objects")
        return Raw(f"<returnval>{token}{objects}</returnval>")

    def _take(self, call: Call, token: str) -> tuple[list[Selected], int]:
        taken = self._state(call).tokens.pop(token, None)
        if taken is None:
            raise vmodl.fault.InvalidArgument(invalidProperty="token", msg="There is no retrieval with this token.")
        return taken

    # -- waiting ------------------------------------------------------------------------------------------

    async def create_filter(self, call: Call, spec: Any, partial_updates: bool) -> Any:
        assert call.session is not None
        state = self._state(call)
        select(call, spec)  # wrong specs are refused here, not at the first wait
        made = PropertyFilter(call.inventory, call.session, spec, partial_updates, state.filters)
        await made.appear()
        state.filters[made.moid] = made
        state.seen = -1
        self._show_filters(call, state)
        return made.ref

    async def create_property_collector(self, call: Call) -> Any:
        assert call.session is not None
        made = SessionCollector(call.inventory, call.session)
        await made.appear()
        return made.ref

    async def check_for_updates(self, call: Call, version: str | None = None) -> Raw | None:
        return await self._wait(call, version or "", 0.0, None)

    async def wait_for_updates(self, call: Call, version: str | None = None) -> Raw | None:
        while True:
            updates = await self._wait(call, version or "", _LONGEST_WAIT, None)
            if updates is not None:
                return updates

    async def wait_for_updates_ex(self, call: Call, version: str | None = None, options: Any = None) -> Raw | None:
        seconds = options.maxWaitSeconds if options is not None else None
        limit = options.maxObjectUpdates if options is not None else None
        wait = _LONGEST_WAIT if seconds is None else float(max(0, seconds))
        return await self._wait(call, version or "", wait, limit if limit and limit > 0 else None)

    async def cancel_wait_for_updates(self, call: Call) -> None:
        if (cancelled := self._state(call).cancelled) is not None:
            cancelled.set()

    async def _wait(self, call: Call, version: str, wait: float, limit: int | None) -> Raw | None:
        state = self._state(call)
        if state.cancelled is not None:  # one wait at a time: the newer one counts
            state.cancelled.set()
        cancelled = state.cancelled = asyncio.Event()
        try:
            if version == "":
                self._restart(state)
            elif version != str(state.version):
                if state.last is not None and version == state.last[0]:
                    return state.last[1]
                raise vmodl.query.InvalidCollectorVersion(msg=f"The version '{version}' is not a current one.")
            return await self._updates(call, state, wait, limit, cancelled)
        finally:
            if state.cancelled is cancelled:
                state.cancelled = None

    async def _updates(
        self, call: Call, state: _Collecting, wait: float, limit: int | None, cancelled: asyncio.Event
    ) -> Raw | None:
        loop = asyncio.get_running_loop()
        end = loop.time() + wait
        while True:
            seen = call.inventory.version
            if not state.pending and state.seen != seen:
                for each in list(state.filters.values()):
                    state.pending += [(each, update) for update in each.updates(call)]
                state.seen = seen
            if state.pending:
                return self._answer(state, limit)
            if cancelled.is_set():
                raise vmodl.fault.RequestCanceled(msg="The wait for updates was cancelled.")
            if (left := end - loop.time()) <= 0:
                return None
            await call.inventory.changed(seen, left, cancelled)

    def _answer(self, state: _Collecting, limit: int | None) -> Raw:
        now, state.pending = state.pending[:limit], state.pending[limit:] if limit else []
        before, state.version = str(state.version), state.version + 1
        groups: dict[str, list[str]] = {}
        filters = {}
        for owner, update in now:
            groups.setdefault(owner.moid, []).append(update)
            filters[owner.moid] = owner
        sets = "".join(
            f"<filterSet>{reference('filter', filters[moid].ref)}{''.join(updates)}</filterSet>"
            for moid, updates in groups.items()
        )
        truncated = "<truncated>true</truncated>" if state.pending else ""
        text = f"<returnval><version>{escape(str(state.version))}</version>{sets}{truncated}</returnval>"
        state.last = ("" if before == "0" else before, Raw(text))
        return state.last[1]

    def _restart(self, state: _Collecting) -> None:
        """The empty version: everything is news again."""
        state.pending, state.seen, state.last = [], -1, None
        for each in state.filters.values():
            each.forget()

    def _show_filters(self, call: Call, state: _Collecting) -> None:
        """Collectors of a session show their filters; the shared one shows none of other sessions'."""


class PropertyCollector(_Methods):
    """The collector everybody has: one reference for all, but each session's filters are its own."""

    kind = vmodl.query.PropertyCollector

    def __init__(self, inventory: "Inventory", moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self._anonymous = _Collecting()
        self._states: dict[str, tuple[Session, _Collecting]] = {}

    def _state(self, call: Call) -> _Collecting:
        if call.session is None:
            return self._anonymous
        if call.session.key not in self._states:
            live = {session.key for session in call.inventory.sessions.all()}
            for key in self._states.keys() - live:
                del self._states[key]
            self._states[call.session.key] = (call.session, _Collecting())
        return self._states[call.session.key][1]

    def value_for(self, call: Call, name: str) -> Any:
        if name == "filter":
            return [each.ref for each in self._state(call).filters.values()]
        return self.value(name)

    async def destroy_property_collector(self, call: Call) -> None:
        raise vmodl.fault.NotSupported(msg="The session's default property collector can not be destroyed.")


class SessionCollector(SessionObject, _Methods):
    """A collector a client made for itself, with its own filters and versions."""

    kind = vmodl.query.PropertyCollector

    def __init__(self, inventory: "Inventory", session: Session) -> None:
        super().__init__(inventory, session)
        self._own = _Collecting()

    def _state(self, call: Call) -> _Collecting:
        return self._own

    def _show_filters(self, call: Call, state: _Collecting) -> None:
        self.set(filter=[each.ref for each in state.filters.values()])

    async def end(self) -> None:
        if self._own.cancelled is not None:
            self._own.cancelled.set()
        for each in list(self._own.filters.values()):
            await each.end()
        await super().end()

    async def destroy_property_collector(self, call: Call) -> None:
        await self.end()


def _select(call: Call, spec_set: list[Any]) -> list[Selected]:
    selected = [each for spec in spec_set for each in select(call, spec).objects]
    authorize(call, selected)
    return selected
