"""Records of moves, those of older agents among them."""

import json
from typing import Any

import pytest

from landbridge.esx.model import Endpoint, OutgoingVm, VmotionMode, VmotionPhase
from landbridge.esx.vmotion_journal import Journal, Record

_VM = "52b6cd08-22a9-4a05-a7a5-9ad08d2d7c57"


def _record(phase: VmotionPhase) -> Record:
    endpoints = {"control": Endpoint(address="10.0.0.2", port=8000, name="m-1-control.vmotion.esx02")}
    request = OutgoingVm(id="m1", mode=VmotionMode.COLD, vm=_VM, endpoints=endpoints)
    return Record(outgoing=request, phase=phase, boot_id="a")


def _of_old(record: Record, *, heard: bool, incoming: bool = False) -> Record:
    """The record as an agent wrote it that only knew whether the source had heard of the end."""
    fields: dict[str, Any] = json.loads(record.model_dump_json())
    del fields["parted"]
    if incoming:
        config = {"name": "vm", "instance_uuid": _VM, "uuid": _VM, "memory_mib": 32}
        request = {"id": "m1", "mode": "cold", "source": config, "config": config, "datastore": "d"}
        fields |= {"outgoing": None, "incoming": request}
    return Record.model_validate_json(json.dumps(fields | {"heard": heard}))


async def test_a_record_is_read_as_it_was_written(tmp_path: Any) -> None:
    record = _record(VmotionPhase.FAILED)
    record.parted = True
    journal = Journal(tmp_path)
    await journal.save(record)
    assert journal.load() == [record]
    assert record.streams == {"control": "m-1-control.vmotion.esx02"}


@pytest.mark.parametrize(
    ("phase", "heard", "incoming", "parted"),
    [
        (VmotionPhase.SUCCEEDED, False, False, True),  # an ended source did not come back to take leave
        (VmotionPhase.MEMORY, False, False, False),
        (VmotionPhase.FAILED, True, True, True),
        (VmotionPhase.FAILED, False, True, False),
        (VmotionPhase.SWITCHOVER, True, True, False),  # killed before it remembered the end: it has to find it out
    ],
)
def test_a_record_of_an_older_agent_is_understood(
    phase: VmotionPhase, heard: bool, incoming: bool, parted: bool
) -> None:
    assert _of_old(_record(phase), heard=heard, incoming=incoming).parted is parted
