"""What is known of a move that must outlive the agent: one small JSON file a move and end, written and synced in place.

QEMU itself is the best journal there is for as long as it lives; this holds what QEMU does not know: whom the move is
with, and how far the two ends agreed.
"""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from landbridge.esx.model import ApiError, IncomingVm, Model, OutgoingVm, Progress, VmotionPhase
from landbridge.relay import Endpoint

FINAL = (VmotionPhase.SUCCEEDED, VmotionPhase.FAILED)
_KEEP = 24 * 3600.0  # seconds the end of a move is remembered, for whoever asks late


class Record(Model):
    """A move at one end. Exactly one of the requests is set."""

    incoming: IncomingVm | None = None
    outgoing: OutgoingVm | None = None
    phase: VmotionPhase = VmotionPhase.PREPARED
    endpoints: dict[str, Endpoint] = Field(default_factory=dict)
    # The incoming VM's VMX file: by it the agent finds the VM again that is not in the inventory yet.
    vmx: str | None = None
    # Machine boot in which the move began: what a dead QEMU left in memory-backed files counts only within it.
    boot_id: str
    progress: Progress = Progress()
    error: ApiError | None = None
    # Nobody at the other end will ask any more, or can be told any more: this end needs no stream.
    parted: bool = False
    changed: float = 0.0

    @model_validator(mode="before")
    @classmethod
    def _of_old(cls, fields: Any) -> Any:
        """`heard` was the target's alone; a source that had ended did not come back to take leave."""
        if not isinstance(fields, dict) or "heard" not in fields:
            return fields
        fields = dict(fields)
        heard, final = bool(fields.pop("heard")), fields.get("phase") in FINAL
        return {**fields, "parted": final and (heard or bool(fields.get("outgoing")))}

    @property
    def id(self) -> str:
        request = self.incoming or self.outgoing
        assert request is not None
        return request.id

    @property
    def final(self) -> bool:
        return self.phase in FINAL

    @property
    def streams(self) -> dict[str, str]:
        """The full names of the relay's streams at this end, by channel."""
        endpoints = self.outgoing.endpoints if self.outgoing else self.endpoints
        return {channel: endpoint.name for channel, endpoint in endpoints.items()}


class Journal:
    """The records of one agent, in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> list[Record]:
        """All records, for a starting agent; those of moves that ended long ago are dropped."""
        self._directory.mkdir(parents=True, exist_ok=True)
        records = []
        for file in sorted(self._directory.glob("*.json")):
            try:
                record = Record.model_validate_json(file.read_bytes())
            except (ValidationError, json.JSONDecodeError):
                # Not ours to guess at: it stays for whoever looks into it, and is in nobody's way.
                file.rename(file.with_suffix(".unreadable"))
                continue
            if record.final and record.changed < time.time() - _KEEP:
                file.unlink()
                continue
            records.append(record)
        return records

    async def save(self, record: Record) -> None:
        """Write a record; when this returns, it is on the disk."""
        record.changed = time.time()
        direction = "in" if record.incoming else "out"
        # The id is the caller's: it must not choose the file.
        name = record.id.encode().hex()[:120]
        await asyncio.to_thread(_write, self._directory / f"{direction}-{name}.json", record.model_dump_json())


def boot_id() -> str:
    """Names the current boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
