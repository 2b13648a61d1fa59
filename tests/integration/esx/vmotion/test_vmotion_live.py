"""Running VMs move between two agents."""

from landbridge.esx.model import PowerState, VmotionPhase
from tests.integration.esx.vmotion.conftest import Pair, same_content


async def test_a_running_vm_moves_with_its_disks(hosts: Pair, tmp_path) -> None:  # type: ignore[no-untyped-def]
    vm = await hosts.source.running("web01", disks=2)
    uuid = vm.config.instance_uuid
    move = await hosts.begin(vm)
    there = await hosts.target.end(move)
    here = await hosts.source.end(move)
    assert here.phase is VmotionPhase.SUCCEEDED, here
    assert there.phase is VmotionPhase.SUCCEEDED, there
    print(here.progress)
    state = await hosts.target.client.vm(uuid)
    assert state.power_state is PowerState.ON
