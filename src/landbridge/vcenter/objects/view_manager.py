"""ViewManager and its views: lists of objects a session keeps, whose `view` property stays true."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import ManagedObject

from landbridge.vcenter.calls import Call
from landbridge.vcenter.managed import Entity, Managed
from landbridge.vcenter.sessions import Session, SessionObject

if TYPE_CHECKING:
    from landbridge.vcenter.inventory import Inventory


class _View(SessionObject):
    async def destroy_view(self, call: Call) -> None:
        await self.end()


class ContainerView(_View):
    """All entities of some types in a container, at one level or at all."""

    kind = vim.view.ContainerView

    def __init__(
        self, inventory: "Inventory", session: Session, container: Entity, kinds: list[type], recursive: bool
    ) -> None:
        super().__init__(inventory, session)
        self._container = container
        self._kinds = tuple(kinds) or (vim.ManagedEntity,)
        self._recursive = recursive
        self.set(container=container.ref, type=list(kinds), recursive=recursive)
        self.lazy("view", self._found)
        inventory.watchers.add(self)

    async def end(self) -> None:
        self.inventory.watchers.discard(self)
        await super().end()

    def _found(self) -> list[ManagedObject]:
        # The implementations' API types are few: one issubclass for each, not for each object.
        matching: dict[type, bool] = {}
        found = []
        for entity in contained(self._container, recursive=self._recursive):
            kind = entity.kind
            if kind not in matching:
                matching[kind] = issubclass(kind, self._kinds)
            if matching[kind]:
                found.append(entity.ref)
        return found


class _ObjectsView(_View):
    """A view of objects that the client chose."""

    def _show(self, refs: list[ManagedObject]) -> None:
        self.set(view=list({ref._moId: ref for ref in refs}.values()))

    def _known(self, refs: list[ManagedObject]) -> tuple[list[ManagedObject], list[ManagedObject]]:
        """Live references, and those of objects that are gone."""
        objects = self.inventory.objects
        return [r for r in refs if r._moId in objects], [r for r in refs if r._moId not in objects]


class ListView(_ObjectsView):
    kind = vim.view.ListView

    def __init__(self, inventory: "Inventory", session: Session, refs: list[ManagedObject]) -> None:
        super().__init__(inventory, session)
        self._show(self._known(refs)[0])

    async def modify_list_view(self, call: Call, add: list[Any], remove: list[Any]) -> list[ManagedObject]:
        added, unknown = self._known(add)
        gone = {ref._moId for ref in remove}
        self._show([ref for ref in [*self.value("view"), *added] if ref._moId not in gone])
        return unknown

    async def reset_list_view(self, call: Call, obj: list[Any]) -> list[ManagedObject]:
        known, unknown = self._known(obj)
        self._show(known)
        return unknown

    async def reset_list_view_from_view(self, call: Call, view: Any) -> None:
        self._show(list(_own(call, view).value("view")))


class InventoryView(_ObjectsView):
    """The tree as a client's window shows it: the root, and the children of folders that are open."""

    kind = vim.view.InventoryView

    def __init__(self, inventory: "Inventory", session: Session, root: Entity) -> None:
        super().__init__(inventory, session)
        self._root = root
        self._open: dict[str, Entity] = {}
        self.lazy("view", self._found)
        inventory.watchers.add(self)

    async def end(self) -> None:
        self.inventory.watchers.discard(self)
        await super().end()

    async def open_inventory_view_folder(self, call: Call, entity: list[Any]) -> list[ManagedObject]:
        known, unknown = self._known(entity)
        for ref in known:
            self._open[ref._moId] = self.inventory.get(ref)
        self.invalidate("view")
        return unknown

    async def close_inventory_view_folder(self, call: Call, entity: list[Any]) -> list[ManagedObject]:
        known, unknown = self._known(entity)
        for ref in known:
            self._open.pop(ref._moId, None)
        self.invalidate("view")
        return unknown

    def _found(self) -> list[ManagedObject]:
        found: dict[str, ManagedObject] = {self._root.moid: self._root.ref}
        for entity in self._open.values():
            for child in contained(entity, recursive=False):
                found[child.moid] = child.ref
        return list(found.values())


class ViewManager(Managed):
    kind = vim.view.ViewManager
    durable = False

    async def create_container_view(self, call: Call, container: Any, recursive: bool, type_: list[type]) -> Any:
        assert call.session is not None
        entity = self.inventory.get(container)
        if not isinstance(entity, Entity):
            raise vmodl.fault.InvalidArgument(
                invalidProperty="container", msg=f"{container._moId} is not a managed entity."
            )
        return await self._made(ContainerView(self.inventory, call.session, entity, type_, bool(recursive)))

    async def create_list_view(self, call: Call, obj: list[Any]) -> Any:
        assert call.session is not None
        return await self._made(ListView(self.inventory, call.session, obj))

    async def create_list_view_from_view(self, call: Call, view: Any) -> Any:
        assert call.session is not None
        return await self._made(ListView(self.inventory, call.session, list(_own(call, view).value("view"))))

    async def create_inventory_view(self, call: Call) -> Any:
        assert call.session is not None
        root = self.inventory.get("group-d1")
        return await self._made(InventoryView(self.inventory, call.session, root))

    async def _made(self, view: _View) -> Any:
        await view.appear()
        return view.ref


def contained(container: Entity, *, recursive: bool) -> Iterator[Entity]:
    """The entities in a container, breadth first.

    A datacenter's folders are its structure: what is in them counts as in the datacenter itself. Hosts and resource
    pools hold VMs (datastores, networks) by reference, not as children; as containers they show those too.
    """
    inventory = container.inventory
    seen = {container.moid}
    queue: list[Entity] = []

    def entities(of: Entity) -> Iterator[Entity]:
        yield from inventory.children(of)
        if of is container and issubclass(of.kind, vim.HostSystem | vim.ResourcePool | vim.ComputeResource):
            for name in ("vm", "datastore", "network"):
                refs = of.value(name) if name in _holding(of.kind) else None
                for ref in refs or ():
                    if isinstance(held := inventory.objects.get(ref._moId), Entity):
                        yield held

    queue.append(container)
    for here in queue:
        for entity in entities(here):
            if entity.moid in seen:
                continue
            seen.add(entity.moid)
            yield entity
            if recursive or issubclass(here.kind, vim.Datacenter):
                queue.append(entity)


def _holding(kind: type) -> tuple[str, ...]:
    if issubclass(kind, vim.HostSystem):
        return ("vm", "datastore", "network")
    return ("vm",) if issubclass(kind, vim.ResourcePool) else ("datastore", "network")


def _own(call: Call, ref: Any) -> Managed:
    view: Managed = call.inventory.get(ref)
    if not isinstance(view, SessionObject) or view.session is not call.session:
        raise vmodl.fault.ManagedObjectNotFound(obj=ref, msg=f"There is no view {ref._moId}.")
    return view
