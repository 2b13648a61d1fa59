"""Versions of the API: what a client says it speaks, and what we say we do."""

from functools import cache

from pyVmomi import VmomiSupport
from pyVmomi.VmomiSupport import GetServiceVersions, versionIdMap, versionMap

NAMESPACE = "urn:vim25"
# The newest release we claim; clients choose the newest of theirs that is in our list.
API_VERSION = "8.0.3.0"
CURRENT: str = versionMap[f"vim25/{API_VERSION}"]


def from_action(action: str | None) -> str:
    """pyVmomi's version for a SOAPAction header (`"urn:vim25/7.0.3.0"`).

    A client that names none, or one we do not know, gets what we claim: it ignores the fields it does not know.
    """
    name = (action or "").strip().strip('"').removeprefix("urn:")
    version: str = versionMap.get(name, CURRENT) if name.startswith("vim25/") else CURRENT
    return version


@cache
def document() -> bytes:
    """`/sdk/vimServiceVersions.xml`: the releases we claim, newest first (schema of version 1.0)."""
    releases = [versionIdMap[version] for version in GetServiceVersions("vim25")]
    releases = [release for release in releases[releases.index(API_VERSION) :] if release]
    prior = "".join(f"<version>{release}</version>" for release in releases[1:])
    return (
        '<?xml version="1.0" encoding="UTF-8" ?>\n'
        f'<namespaces version="1.0"><namespace><name>{NAMESPACE}</name><version>{releases[0]}</version>'
        f"<priorVersions>{prior}</priorVersions></namespace></namespaces>\n"
    ).encode()


def is_known(version: str, since: str) -> bool:
    """Whether a client of `version` knows what was added in `since`."""
    return bool(VmomiSupport.IsChildVersion(version, since))
