"""HostDatastoreBrowser: looks for files on a datastore."""

import fnmatch
from typing import Any

from pyVmomi import vim

from landbridge.esx.model import DatastoreFile
from landbridge.vcenter.calls import Call
from landbridge.vcenter.datastore_paths import split_path
from landbridge.vcenter.hardware.config_info import moment
from landbridge.vcenter.host_faults import agent_faults
from landbridge.vcenter.managed import Managed

_browser = vim.host.DatastoreBrowser
# By the ending of a file's name: the type of description clients ask for.
_TYPES = {
    ".vmx": _browser.VmConfigInfo,
    ".vmtx": _browser.TemplateVmConfigInfo,
    ".vmdk": _browser.VmDiskInfo,
    ".nvram": _browser.VmNvramInfo,
    ".vmsn": _browser.VmSnapshotInfo,
    ".log": _browser.VmLogInfo,
    ".iso": _browser.IsoImageInfo,
    ".flp": _browser.FloppyImageInfo,
}
_QUERIES = {
    _browser.VmConfigQuery: _browser.VmConfigInfo,
    _browser.TemplateVmConfigQuery: _browser.TemplateVmConfigInfo,
    _browser.VmDiskQuery: _browser.VmDiskInfo,
    _browser.VmNvramQuery: _browser.VmNvramInfo,
    _browser.VmSnapshotQuery: _browser.VmSnapshotInfo,
    _browser.VmLogQuery: _browser.VmLogInfo,
    _browser.IsoImageQuery: _browser.IsoImageInfo,
    _browser.FloppyImageQuery: _browser.FloppyImageInfo,
    _browser.FolderQuery: _browser.FolderInfo,
}


class DatastoreBrowser(Managed):
    """Facts: datastore (its moId)."""

    kind = vim.host.DatastoreBrowser
    prefix = "datastoreBrowser"

    def __init__(self, inventory: Any, moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self.lazy("datastore", lambda: [self._datastore().ref])

    def _datastore(self) -> Any:
        return self.inventory.get(self.facts["datastore"])

    async def search_datastore_task(
        self, call: Call, datastore_path: str, search_spec: vim.host.DatastoreBrowser.SearchSpec | None = None
    ) -> vim.Task:
        """The files in one folder."""
        call.require("Datastore.Browse", self._datastore())

        async def work(_: Any) -> Any:
            results = await self._search(datastore_path, search_spec, below=False)
            return results[0]

        return await self.inventory.tasks.start(call, self._datastore(), "DatastoreBrowser.searchDatastore", work)

    async def search_datastore_sub_folders_task(
        self, call: Call, datastore_path: str, search_spec: vim.host.DatastoreBrowser.SearchSpec | None = None
    ) -> vim.Task:
        """The files in a folder and in all below it: one result a folder."""
        call.require("Datastore.Browse", self._datastore())

        async def work(_: Any) -> Any:
            results = await self._search(datastore_path, search_spec, below=True)
            return _browser.SearchResults.Array(results)

        return await self.inventory.tasks.start(
            call, self._datastore(), "DatastoreBrowser.searchDatastoreSubFolders", work
        )

    async def _search(
        self, path: str, spec: vim.host.DatastoreBrowser.SearchSpec | None, *, below: bool
    ) -> list[vim.host.DatastoreBrowser.SearchResults]:
        from landbridge.vcenter.objects.datastore import find_datastore

        datastore = find_datastore(self.inventory, path, self._datastore())
        client, name = datastore.access()
        folders = [split_path(path)[1].strip("/")]
        results = []
        while folders:
            folder = folders.pop(0)
            with agent_faults(datastore):
                files = await client.list_files(name, folder)
            found = [file for file in files if _wanted(file, spec)]
            shown = f"[{datastore.name}] {folder}" + ("/" if folder and below else "")
            results.append(_browser.SearchResults(datastore=datastore.ref, folderPath=shown, file=_infos(found)))
            if below:
                folders += [f"{folder}/{_name(f)}".lstrip("/") for f in files if f.directory]
        return results


def _name(file: DatastoreFile) -> str:
    return split_path(file.path)[1].rstrip("/").rpartition("/")[2]


def _type(file: DatastoreFile) -> Any:
    if file.directory:
        return _browser.FolderInfo
    name = _name(file)
    return next((kind for ending, kind in _TYPES.items() if name.endswith(ending)), _browser.FileInfo)


def _wanted(file: DatastoreFile, spec: vim.host.DatastoreBrowser.SearchSpec | None) -> bool:
    if spec is None:
        return True
    name, patterns = _name(file), list(spec.matchPattern or [])
    if spec.searchCaseInsensitive is not False:
        name, patterns = name.lower(), [pattern.lower() for pattern in patterns]
    if patterns and not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
        return False
    queries = [_QUERIES.get(type(query)) for query in spec.query or []]
    # A plain FileQuery asks for every file.
    return not queries or None in queries or _type(file) in queries


def _infos(files: list[DatastoreFile]) -> list[Any]:
    return [_type(f)(path=_name(f), fileSize=f.size, modification=moment(f.modified), owner="root") for f in files]
