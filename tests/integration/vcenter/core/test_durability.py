"""What survives kill -9, on SQLite and on PostgreSQL."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from landbridge.vcenter.calls import Call
from landbridge.vcenter.config import Config
from landbridge.vcenter.events import Events
from landbridge.vcenter.inventory import Inventory
from landbridge.vcenter.objects.folder import create_folder
from landbridge.vcenter.store import Store
from landbridge.vcenter.tasks import Task, TaskHandle, Tasks
from landbridge.vmodl.versions import CURRENT
from tests.integration.vcenter.core.vcenter_process import ADMINISTRATOR, VcenterProcess, finish, new_datacenter


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="lbvc"))
    yield path
    shutil.rmtree(path)


def test_inventory_tasks_events_and_users_survive_kill_9(directory: Path, database_url: str) -> None:
    vcenter = VcenterProcess(directory, database_url=database_url)
    vcenter.start()
    with vcenter.client() as si:
        uuid = si.content.about.instanceUuid
        datacenter = new_datacenter(si)
        folder = datacenter.vmFolder.CreateFolder("kept")
        renamed = folder.Rename("renamed")
        finish(renamed)
        doomed = datacenter.vmFolder.CreateFolder("doomed")
        finish(doomed.Destroy())
        field = si.content.customFieldsManager.AddFieldDefinition("owner")
        si.content.customFieldsManager.SetField(folder, field.key, "ops")
        before = (datacenter._moId, folder._moId, renamed._moId, doomed._moId)
        vcenter.kill()
    # The password of the configuration is for the first start only.
    (directory / "administrator").write_text("another\n")
    vcenter.start()
    try:
        with vcenter.client(ADMINISTRATOR) as si:
            assert si.content.about.instanceUuid == uuid
            datacenter, folder = vim.Datacenter(before[0], si._stub), vim.Folder(before[1], si._stub)
            assert (folder.name, folder.parent) == ("renamed", datacenter.vmFolder)
            assert [(each.key, each.value) for each in folder.customValue] == [(field.key, "ops")]
            info = vim.Task(before[2], si._stub).info
            assert (info.state, info.entity, info.descriptionId) == ("success", folder, "Folder.rename")
            with pytest.raises(vmodl.fault.ManagedObjectNotFound):
                _ = vim.Folder(before[3], si._stub).name
            # An id is never used twice.
            fresh = datacenter.vmFolder.CreateFolder("fresh")
            numbers = [int(moid.lstrip("abcdefghijklmnopqrstuvwxyz-")) for moid in (*before, fresh._moId)]
            assert numbers[-1] > max(numbers[:-1])
            messages = [
                each.fullFormattedMessage for each in si.content.eventManager.QueryEvents(vim.event.EventFilterSpec())
            ]
            assert f"Created datacenter {datacenter.name} in folder Datacenters" in messages
    finally:
        assert vcenter.stop() == 0


@asynccontextmanager
async def opened(url: str, tmp_path: Path) -> AsyncIterator[Inventory]:
    """An inventory in this process, as a vCenter that dies at the end without a word."""
    config = Config.model_validate(
        {
            "name": "vc", "site": "lab", "state_dir": tmp_path, "run_dir": tmp_path, "pki_dir": tmp_path,
            "listen": {"address": "127.0.0.1"}, "administrator": {"password_file": tmp_path / "none"},
        }
    )  # fmt: skip
    store = await Store.open(url)
    inventory = Inventory(store, config, identity=None)  # type: ignore[arg-type]  # no TLS here
    inventory.tasks, inventory.events = Tasks(inventory), Events(inventory)
    await inventory.load()
    try:
        yield inventory
    finally:
        await inventory.tasks.stop()
        await store.close()


async def start_stuck(inventory: Inventory, description: str, **arguments: Any) -> Task:
    """A task whose work never ends."""

    async def work(task: TaskHandle) -> None:
        await task.note(step=2)
        noted.set()
        await asyncio.Event().wait()

    noted = asyncio.Event()
    folder = inventory.objects.get("group-d1") or await create_folder(inventory, "root", "root", None)
    call = Call(inventory, None, CURRENT)
    ref = await inventory.tasks.start(call, folder, description, work, **arguments)
    await asyncio.wait_for(noted.wait(), 10)
    task: Task = inventory.get(ref)
    return task


async def test_a_task_nobody_adopts_ends_in_error(database_url: str, tmp_path: Path) -> None:
    async with opened(database_url, tmp_path) as inventory:
        moid = (await start_stuck(inventory, "Folder.rename")).moid
    for _ in range(2):  # and it is still so after another restart
        async with opened(database_url, tmp_path) as inventory:
            await inventory.tasks.resume()
            info = inventory.get(moid).info
            assert info.state == "error"
            assert "restarted" in info.error.msg


async def test_a_task_is_adopted_with_its_journal(database_url: str, tmp_path: Path) -> None:
    async with opened(database_url, tmp_path) as inventory:
        moid = (await start_stuck(inventory, "VirtualMachine.relocate", journal={"target": "host-2"})).moid
    async with opened(database_url, tmp_path) as inventory:
        journals = []

        async def adopt(task: TaskHandle) -> None:
            journals.append(dict(task.journal))

        inventory.tasks.on_resume("VirtualMachine.relocate", adopt)
        await inventory.tasks.resume()
        seen = inventory.version
        while inventory.get(moid).info.state == "running":
            assert await inventory.changed(seen, 10)
            seen = inventory.version
        assert inventory.get(moid).info.state == "success"
        assert journals == [{"target": "host-2", "step": 2}]


async def test_cancelling_is_up_to_the_work(database_url: str, tmp_path: Path) -> None:
    async with opened(database_url, tmp_path) as inventory:
        folder = await create_folder(inventory, "root", "root", None)
        call = Call(inventory, None, CURRENT)

        async def work(task: TaskHandle) -> None:
            task.progress(40)
            task.progress(20)
            await task.cancel_requested.wait()
            task.check_cancelled()

        task: Task = inventory.get(await inventory.tasks.start(call, folder, "Folder.rename", work, cancelable=True))
        stuck = await start_stuck(inventory, "Folder.destroy")
        with pytest.raises(vmodl.fault.NotSupported):
            await stuck.cancel_task(call)
        await asyncio.sleep(0)
        assert inventory.tasks.running(folder) == [task, stuck]
        await task.cancel_task(call)
        while task.info.state == "running":
            assert await inventory.changed(inventory.version, 10)
        assert isinstance(task.info.error, vmodl.fault.RequestCanceled)
        assert (task.info.cancelled, task.info.progress) == (True, 40)


async def test_the_store_keeps_order_and_the_last_value(database_url: str) -> None:
    store = await Store.open(database_url)
    for moid in ("b", "a", "c"):
        await store.put_object(moid, "vim.Folder", {"n": 1}, 3)
    await store.put_object("b", "vim.Folder", {"n": 2, "ü": None}, 4)
    await store.delete_object("a")
    await store.put_events([(1, "<a/>"), (2, "<b/>"), (3, "<c/>")], keep=2)
    await store.close()
    store = await Store.open(database_url)
    assert await store.objects() == ([("b", "vim.Folder", {"n": 2, "ü": None}), ("c", "vim.Folder", {"n": 1})], 4)
    assert await store.events(10) == [(2, "<b/>"), (3, "<c/>")]
    assert await store.events(1) == [(3, "<c/>")]
    await store.close()
