"""One vCenter from start to end: store, inventory, sessions, hosts, server, in this order, and back."""

import asyncio
import importlib
import logging
import pkgutil
import uuid
from pathlib import Path
from typing import Any

from pyVmomi import vim

from landbridge.pki import Identity
from landbridge.vcenter import objects
from landbridge.vcenter.config import Config
from landbridge.vcenter.events import Events
from landbridge.vcenter.inventory import Inventory
from landbridge.vcenter.managed import Managed
from landbridge.vcenter.objects.authorization_manager import AuthorizationManager
from landbridge.vcenter.objects.custom_fields_manager import CustomFieldsManager
from landbridge.vcenter.objects.event_manager import EventManager
from landbridge.vcenter.objects.file_manager import FileManager
from landbridge.vcenter.objects.folder import Folder
from landbridge.vcenter.objects.option_manager import OptionManager
from landbridge.vcenter.objects.performance_manager import PerformanceManager
from landbridge.vcenter.objects.property_collector import PropertyCollector
from landbridge.vcenter.objects.search_index import SearchIndex
from landbridge.vcenter.objects.service_instance import ServiceInstance, about
from landbridge.vcenter.objects.session_manager import SessionManager
from landbridge.vcenter.objects.task_manager import TaskManager
from landbridge.vcenter.objects.view_manager import ViewManager
from landbridge.vcenter.server import Server
from landbridge.vcenter.sessions import Sessions
from landbridge.vcenter.store import Store, default_url
from landbridge.vcenter.tasks import Tasks

log = logging.getLogger(__name__)
# Content field, moId, implementation: the objects there is one of. moIds are those of vCenter.
SINGLETONS: dict[str, tuple[str, type[Managed]]] = {
    "propertyCollector": ("propertyCollector", PropertyCollector),
    "sessionManager": ("SessionManager", SessionManager),
    "viewManager": ("ViewManager", ViewManager),
    "taskManager": ("TaskManager", TaskManager),
    "eventManager": ("EventManager", EventManager),
    "searchIndex": ("SearchIndex", SearchIndex),
    "authorizationManager": ("AuthorizationManager", AuthorizationManager),
    "customFieldsManager": ("CustomFieldsManager", CustomFieldsManager),
    "perfManager": ("PerfMgr", PerformanceManager),
    "setting": ("VpxSettings", OptionManager),
    "fileManager": ("FileManager", FileManager),
}
ROOT = "group-d1"


class Daemon:
    """A running vCenter: `await start()`, later `await stop()`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.inventory: Inventory
        self._server: Server

    async def start(self) -> None:
        config = self._config
        config.state_dir.mkdir(parents=True, exist_ok=True)
        url = default_url(config.state_dir)
        if config.database.url_file:
            url = (await asyncio.to_thread(_text, config.database.url_file)).strip()
        store = await Store.open(url)
        inventory = self.inventory = Inventory(store, config, Identity(config.pki_dir))
        inventory.tasks, inventory.events, inventory.sessions = Tasks(inventory), Events(inventory), Sessions(inventory)
        load_objects(inventory.tasks)
        await inventory.sessions.start()
        await inventory.load()
        await inventory.events.load()
        await _make_roots(inventory)
        await self._start_hosts()
        await inventory.tasks.resume()
        self._server = Server(inventory)
        await self._server.start()

    async def stop(self) -> None:
        inventory = self.inventory
        await self._server.stop()
        await inventory.tasks.stop()
        if inventory.hosts is not None:
            await inventory.hosts.stop()
        await inventory.sessions.stop()
        await inventory.events.stop()
        await inventory.store.close()

    async def _start_hosts(self) -> None:
        from landbridge.vcenter.hosts import Hosts

        self.inventory.hosts = Hosts(self.inventory)
        await self.inventory.hosts.start()


def load_objects(tasks: Tasks) -> None:
    """Import all managed object types, and let those that resume tasks say so."""
    for module in pkgutil.iter_modules(objects.__path__, f"{objects.__name__}."):
        importlib.import_module(module.name)
    for name in ("provisioning", "relocate"):
        resumes = getattr(importlib.import_module(f"landbridge.vcenter.{name}"), "resumes", None)
        if resumes is not None:
            resumes(tasks)


async def _make_roots(inventory: Inventory) -> None:
    if ROOT not in inventory.objects:
        inventory.new_moid("group")
        await inventory.add(Folder(inventory, ROOT, {"name": "Datacenters", "holds": "root", "parent": None}))
    instance_uuid = await inventory.store.setting("instance_uuid")
    if instance_uuid is None:
        instance_uuid = str(uuid.uuid4())
        await inventory.store.put_setting("instance_uuid", instance_uuid)
    content: dict[str, Any] = {"rootFolder": inventory.get(ROOT).ref, "about": about(instance_uuid)}
    for field, (moid, implementation) in SINGLETONS.items():
        if moid not in inventory.objects:
            await inventory.add(implementation(inventory, moid))
        content[field] = inventory.get(moid).ref
    instance = ServiceInstance(inventory, "ServiceInstance")
    instance.set(content=vim.ServiceInstanceContent(**content))
    await inventory.add(instance)


def _text(path: str) -> str:
    return Path(path).read_text()
