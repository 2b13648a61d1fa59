"""The probe guest that decides between KVM and emulation."""

import asyncio
import json
from pathlib import Path

import pytest

from landbridge.esx import accel


async def test_a_guest_that_boots_is_noticed() -> None:
    assert await accel.boots("tcg", timeout=60)


async def test_a_guest_that_does_not_boot_in_time_is_given_up() -> None:
    assert not await accel.boots("tcg", timeout=0)


async def test_an_accelerator_that_is_not_there_boots_nothing() -> None:
    assert not await accel.boots("hax", timeout=60)


@pytest.mark.parametrize("this_boot", [True, False])
async def test_the_answer_is_remembered_until_the_machine_boots_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, this_boot: bool
) -> None:
    asked: list[str] = []

    async def no_guest_boots(kind: str) -> bool:
        asked.append(kind)
        return False

    monkeypatch.setattr(accel, "boots", no_guest_boots)
    monkeypatch.setattr(accel, "_SHARED", tmp_path)
    monkeypatch.setattr(accel, "_KVM", tmp_path)
    boot = (await asyncio.to_thread(Path("/proc/sys/kernel/random/boot_id").read_text)).strip()
    known = {"boot_id": boot if this_boot else "another", "accelerator": "kvm"}
    (tmp_path / "landbridge-accelerator.json").write_text(json.dumps(known))
    assert await accel.accelerator(tmp_path) == ("kvm" if this_boot else "tcg")
    assert asked == ([] if this_boot else ["kvm"])
    assert await accel.accelerator(tmp_path) == ("kvm" if this_boot else "tcg")
    assert len(asked) <= 1
