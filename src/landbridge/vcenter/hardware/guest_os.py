"""Guest operating systems: the identifiers a VM may name, and what vSphere calls them for people."""

from pyVmomi import vim

_IDENTIFIERS = frozenset(vim.vm.GuestOsDescriptor.GuestOsIdentifier.values)

# The names vCenter 8 shows, for the identifiers in common use.
_FULL_NAMES = {
    "almalinux_64Guest": "AlmaLinux (64-bit)",
    "amazonlinux2_64Guest": "Amazon Linux 2 (64-bit)",
    "centos7_64Guest": "CentOS 7 (64-bit)",
    "centos8_64Guest": "CentOS 8 (64-bit)",
    "centos64Guest": "CentOS 4/5/6 (64-bit)",
    "coreos64Guest": "CoreOS Linux (64-bit)",
    "debian8_64Guest": "Debian GNU/Linux 8 (64-bit)",
    "debian9_64Guest": "Debian GNU/Linux 9 (64-bit)",
    "debian10_64Guest": "Debian GNU/Linux 10 (64-bit)",
    "debian11_64Guest": "Debian GNU/Linux 11 (64-bit)",
    "debian12_64Guest": "Debian GNU/Linux 12 (64-bit)",
    "debian13_64Guest": "Debian GNU/Linux 13 (64-bit)",
    "fedora64Guest": "Red Hat Fedora (64-bit)",
    "freebsd13_64Guest": "FreeBSD 13 (64-bit)",
    "freebsd14_64Guest": "FreeBSD 14 or later versions (64-bit)",
    "opensuse64Guest": "SUSE openSUSE (64-bit)",
    "oracleLinux8_64Guest": "Oracle Linux 8 (64-bit)",
    "oracleLinux9_64Guest": "Oracle Linux 9 (64-bit)",
    "other3xLinux64Guest": "Other 3.x Linux (64-bit)",
    "other4xLinux64Guest": "Other 4.x Linux (64-bit)",
    "other5xLinux64Guest": "Other 5.x Linux (64-bit)",
    "other6xLinux64Guest": "Other 6.x or later Linux (64-bit)",
    "otherGuest": "Other (32-bit)",
    "otherGuest64": "Other (64-bit)",
    "otherLinuxGuest": "Other Linux (32-bit)",
    "otherLinux64Guest": "Other Linux (64-bit)",
    "rhel7_64Guest": "Red Hat Enterprise Linux 7 (64-bit)",
    "rhel8_64Guest": "Red Hat Enterprise Linux 8 (64-bit)",
    "rhel9_64Guest": "Red Hat Enterprise Linux 9 (64-bit)",
    "rockylinux_64Guest": "Rocky Linux (64-bit)",
    "sles12_64Guest": "SUSE Linux Enterprise 12 (64-bit)",
    "sles15_64Guest": "SUSE Linux Enterprise 15 (64-bit)",
    "ubuntu64Guest": "Ubuntu Linux (64-bit)",
    "vmkernel7Guest": "VMware ESXi 7.x",
    "vmwarePhoton64Guest": "VMware Photon OS (64-bit)",
    "windows9Server64Guest": "Microsoft Windows Server 2016 (64-bit)",
    "windows9_64Guest": "Microsoft Windows 10 (64-bit)",
    "windows11_64Guest": "Microsoft Windows 11 (64-bit)",
    "windows2019srv_64Guest": "Microsoft Windows Server 2019 (64-bit)",
    "windows2019srvNext_64Guest": "Microsoft Windows Server 2022 (64-bit)",
    "windows2022srvNext_64Guest": "Microsoft Windows Server 2025 (64-bit)",
}


def is_known(guest_id: str) -> bool:
    """Whether the vSphere API has such a guest identifier."""
    return guest_id in _IDENTIFIERS


def full_name(guest_id: str) -> str:
    """What people read: `Debian GNU/Linux 12 (64-bit)`; the identifier itself where we have no name for it."""
    return _FULL_NAMES.get(guest_id, guest_id)


def family(guest_id: str) -> str:
    """`vim.vm.GuestOsDescriptor.GuestOsFamily` of an identifier."""
    if guest_id.startswith("win"):
        return "windowsGuest"
    if guest_id.startswith("darwin"):
        return "darwinGuestFamily"
    if guest_id.startswith("solaris"):
        return "solarisGuest"
    others = ("otherGuest", "freebsd", "vmkernel", "netware", "eComStation", "os2", "dos", "openServer", "unixWare")
    return "otherGuestFamily" if guest_id.startswith(others) else "linuxGuest"
