"""FileManager: makes and deletes files and folders of datastores."""

from typing import Any

from pyVmomi import vim

from landbridge.vcenter.calls import Call
from landbridge.vcenter.datastore_paths import split_path
from landbridge.vcenter.hardware.device_faults import invalid_argument
from landbridge.vcenter.host_faults import agent_faults
from landbridge.vcenter.managed import Managed
from landbridge.vcenter.objects.datastore import Datastore, find_datastore


class FileManager(Managed):
    """The one file manager."""

    kind = vim.FileManager
    prefix = "FileManager"
    durable = False

    def _resolve(self, name: str, datacenter: vim.Datacenter | None) -> tuple[Datastore, str]:
        near = self.inventory.get(datacenter) if datacenter is not None else None
        datastore = find_datastore(self.inventory, name, near)
        return datastore, split_path(name)[1].strip("/")

    async def make_directory(
        self,
        call: Call,
        name: str,
        datacenter: vim.Datacenter | None = None,
        create_parent_directories: bool | None = None,
    ) -> None:
        datastore, path = self._resolve(name, datacenter)
        call.require("Datastore.FileManagement", datastore)
        if not path:
            raise invalid_argument("name", "the folder has no name")
        client, host_name = datastore.access()
        with agent_faults(datastore):
            parent, _, leaf = path.rpartition("/")
            if parent and not create_parent_directories:
                # Raises FileNotFound if the parent is not there.
                await client.list_files(host_name, parent)
            if any(split_path(f.path)[1].rstrip("/") == path for f in await _listed(client, host_name, parent)):
                raise vim.fault.FileAlreadyExists(file=name, msg=f"{name} exists already ({leaf}).")
            await client.make_directory(host_name, path)

    async def delete_datastore_file_task(
        self, call: Call, name: str, datacenter: vim.Datacenter | None = None
    ) -> vim.Task:
        datastore, path = self._resolve(name, datacenter)
        call.require("Datastore.FileManagement", datastore)
        if not path:
            raise invalid_argument("name", "a datastore can not be deleted as a file")

        async def work(_: Any) -> None:
            client, host_name = datastore.access()
            with agent_faults(datastore):
                await client.delete_file(host_name, path)

        return await self.inventory.tasks.start(call, datastore, "FileManager.deleteFile", work)


async def _listed(client: Any, datastore: str, directory: str) -> list[Any]:
    from landbridge.esx.client import HostError

    try:
        files: list[Any] = await client.list_files(datastore, directory)
    except HostError as error:
        if error.type == "FileNotFound":
            return []
        raise
    return files
