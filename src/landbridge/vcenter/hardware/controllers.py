"""Controllers of a VM: which one a device goes on, at which unit, under which keys."""

from collections.abc import Iterable

from landbridge.esx.model import Cdrom, Controller, ControllerType, Disk, VmConfig
from landbridge.vcenter.hardware.device_faults import invalid_device
from landbridge.vcenter.hardware.devices import CONTROLLER_TYPES, FIRST_KEY, SCSI_TYPES

# Units a device may take. On SCSI unit 7 is the controller's own.
_UNITS: dict[ControllerType, tuple[int, ...]] = {
    ControllerType.PVSCSI: (*range(7), *range(8, 16)),
    ControllerType.LSI_LOGIC: (*range(7), *range(8, 16)),
    ControllerType.LSI_LOGIC_SAS: (*range(7), *range(8, 16)),
    # QEMU's AHCI has six ports, a VMware one thirty.
    ControllerType.AHCI: tuple(range(6)),
    ControllerType.NVME: tuple(range(15)),
    ControllerType.IDE: (0, 1),
}
_MOST = 4
IDE_KEYS = (200, 201)


def controller_type(device: object) -> ControllerType | None:
    """The model's type of a virtual controller, None if it is of a kind that is not served."""
    return next((kind for kind, vim_type in CONTROLLER_TYPES.items() if type(device) is vim_type), None)


def _family(kind: ControllerType) -> frozenset[ControllerType]:
    """Controllers that share bus numbers with this one."""
    return SCSI_TYPES if kind in SCSI_TYPES else frozenset({kind})


def new_controller(config: VmConfig, kind: ControllerType, bus: int | None, index: int) -> Controller:
    """A controller at bus `bus`, or at the first free one; InvalidDeviceSpec if that is taken or all are."""
    taken = {controller.bus for controller in config.controllers if controller.type in _family(kind)}
    if bus is None or bus < 0:
        bus = next((number for number in range(_MOST) if number not in taken), _MOST)
    if bus in taken:
        raise invalid_device(index, f"bus {bus} has a controller already", "busNumber")
    if bus >= (2 if kind is ControllerType.IDE else _MOST):
        raise invalid_device(index, f"a VM can not have another {kind.value} controller", "busNumber")
    return Controller(key=FIRST_KEY[kind] + bus, type=kind, bus=bus)


def with_ide(config: VmConfig, key: int) -> Controller | None:
    """Every VMware VM has two IDE controllers; they join the configuration when a device goes on them."""
    if key not in IDE_KEYS:
        return None
    found = next((controller for controller in config.controllers if controller.key == key), None)
    if found is None:
        found = Controller(key=key, type=ControllerType.IDE, bus=key - IDE_KEYS[0])
        config.controllers.append(found)
    return found


def free_unit(config: VmConfig, controller: Controller) -> int | None:
    """The first unit of a controller no device has, None if it is full."""
    taken = _taken(config, controller.key)
    return next((unit for unit in _UNITS[controller.type] if unit not in taken), None)


def place(config: VmConfig, controller: Controller, unit: int | None, index: int, *, moving: int | None = None) -> int:
    """The unit a device gets: the one asked for, or the first free one. `moving`: a device that leaves its own."""
    taken = _taken(config, controller.key, moving)
    units = _UNITS[controller.type]
    if unit is None or unit < 0:
        unit = next((candidate for candidate in units if candidate not in taken), None)
        if unit is None:
            raise invalid_device(index, f"controller {controller.key} is full", "controllerKey")
    if unit not in units or unit in taken:
        raise invalid_device(index, f"unit {unit} of controller {controller.key} is not free", "unitNumber")
    return unit


def default_controller(config: VmConfig, kinds: Iterable[ControllerType]) -> Controller | None:
    """The first controller of one of `kinds` with a free unit."""
    wanted = set(kinds)
    return next((c for c in config.controllers if c.type in wanted and free_unit(config, c) is not None), None)


def _taken(config: VmConfig, controller: int, but: int | None = None) -> set[int]:
    devices: list[Disk | Cdrom] = [*config.disks, *config.cdroms]
    return {device.unit for device in devices if device.controller == controller and device.key != but}
