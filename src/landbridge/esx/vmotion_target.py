"""The receiving end of a move: a QEMU that waits, its disks exported, and the answer to who has the guest.

The guest can not run here before the source asked to close the exports: QEMU is started with `-S`, and until then has
not been told to run what it receives. From then on the end of the memory stream starts it, without this agent's
help, and QEMU's own record (`run-states.log`) tells whether that happened, whoever was there to see it.
"""

import asyncio
import base64
import logging
from pathlib import Path
from typing import Any, Literal

from landbridge.esx import vifs
from landbridge.esx.block_watch import BlockWatch
from landbridge.esx.faults import Fault, as_fault
from landbridge.esx.inventory import Inventory
from landbridge.esx.model import IncomingVm, Vmotion, VmotionMode, VmotionPhase, vif_id
from landbridge.esx.qmp import Qmp, QmpError, QmpGone
from landbridge.esx.switch import SwitchError
from landbridge.esx.vm import VirtualMachine
from landbridge.esx.vmotion_control import VERSION, ControlServer, Message
from landbridge.esx.vmotion_disks import channel
from landbridge.esx.vmotion_journal import Journal, Record, boot_id
from landbridge.esx.vmotion_move import CONTROL, RAM, Move
from landbridge.esx.vmotion_sides import REMOTE, SITE
from landbridge.relay import Relay, stream_name

_log = logging.getLogger(__name__)

# Seconds without a source before the target gives up. The first contact may take longer: whoever asked for the move
# has to bring the endpoints to the source.
_PATIENCE = 30.0
_PATIENCE_AT_FIRST = 180.0
_LAST_ANSWER = 5.0  # seconds the source gets to hear the last answer and to hang up
_RAN = "(running)"

RUNNING, DEAD = "running", "dead"


class Target(Move):
    """One VM that comes here. `prepare` or `recover`, then it goes by itself."""

    direction: Literal["incoming"] = "incoming"

    def __init__(self, record: Record, journal: Journal, inventory: Inventory, relay: Relay) -> None:
        super().__init__(record, journal, inventory, relay)
        assert record.incoming is not None
        self.request: IncomingVm = record.incoming
        self.vm: VirtualMachine | None = None
        self._server = ControlServer(self._answer)
        self._outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._deciding = asyncio.Lock()
        self._armed = False
        self._met = False
        self._recovered = False
        self._goodbye = asyncio.Event()
        self._parting = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._ports_active = False
        self._activating: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------------------------- the way in

    async def prepare(self) -> None:
        """Lay out the VM, start its QEMU, open the streams. On failure nothing is left."""
        request = self.request
        try:
            self.vm = await self.inventory.create_incoming(
                self._config(),
                request.datastore,
                disk_datastores=request.disk_datastores,
                shared_disks=request.shared_disks,
                shared_vmx=request.shared_vmx,
            )
            self.vm.vmotion = self.id
            await self._open_streams(self.vm.qmp)
            await self.save()
            self._tell("is coming here")
        except BaseException as error:
            await self._undo()
            await self._hang_up()
            if isinstance(error, QmpError):
                raise Fault("GenericVmConfigFault", f"the target can not receive the VM: {error}") from error
            raise
        self._go()

    def _config(self) -> Any:
        # The live state fits only the machine it was made on, whatever the receiving configuration says.
        source = self.request.source
        pinned = {"machine": source.machine, "cpu_model": source.cpu_model, "firmware": source.firmware}
        capacities = {disk.key: disk.capacity for disk in source.disks}
        config = self.request.config
        if {disk.key for disk in config.disks} != set(capacities):
            raise Fault("InvalidDeviceSpec", "a VM keeps its disks when it moves: their keys differ")
        disks = [disk.model_copy(update={"path": "", "capacity": capacities[disk.key]}) for disk in config.disks]
        return config.model_copy(update={**pinned, "disks": disks})

    async def _open_streams(self, qmp: Qmp) -> None:
        ram, control = (stream_name(self.id, name) for name in (RAM, CONTROL))
        endpoints = self.record.endpoints
        endpoints[CONTROL] = self.relay.endpoint(self._side, control)
        await self._server.listen(await self._expose(control))
        if disks := {channel(key): stream_name(self.id, channel(key)) for key in self._disks()}:
            # One NBD server, and a stream for each disk, so that it can be told what went through each.
            endpoints.update({name: self.relay.endpoint(self._side, stream) for name, stream in disks.items()})
            first, *others = disks.values()
            await self._export(qmp, str(await self._expose(first)))
            for stream in others:
                await self._expose(stream, beside=first)
        if self.request.mode is VmotionMode.LIVE:
            endpoints[RAM] = self.relay.endpoint(self._side, ram)
            path = await self._expose(ram)
            await qmp.execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
            await qmp.execute("migrate-incoming", uri=f"unix:{path}")

    @property
    def _side(self) -> str:
        return REMOTE if self.request.sender_authority else SITE

    async def _expose(self, stream: str, beside: str = "") -> Path:
        return await self.relay.expose(self._side, stream, self.request.sender_authority, beside)

    def _disks(self) -> list[int]:
        return [disk.key for disk in self.request.config.disks if disk.key not in self.request.shared_disks]

    async def _export(self, qmp: Qmp, path: str) -> None:
        assert self.vm is not None
        # A UNIX socket: over TCP, QEMU's NBD server makes small writes wait for delayed acknowledgements.
        await qmp.execute("nbd-server-start", addr={"type": "unix", "data": {"path": path}}, **{"max-connections": 0})
        nodes = await self.vm.device_nodes()
        for key in self._disks():
            await qmp.execute(
                "block-export-add",
                id=f"export-{key}",
                type="nbd",
                name=channel(key),
                writable=True,
                **{"node-name": nodes[f"disk-{key}"]},
            )

    async def recover(self) -> None:
        """After the agent's start: find out what became of the VM meanwhile, and go on."""
        self._recovered = True
        if self.record.final:
            # The source has not heard of it, or not said bye.
            self._outcome.set_result(RUNNING if self.phase is VmotionPhase.SUCCEEDED else DEAD)
            await self.listen_again()
            self._go()
            return
        uuid = self.request.config.instance_uuid
        try:
            self.vm = self.inventory.get_incoming(uuid)
        except Fault:
            committed = [vm for vm in self.inventory.vms if vm.id == uuid]
            if committed:
                self.vm = committed[0]
                await self.listen_again()
                await self._has_run()
                self._go()
            else:
                # The last agent gave it up, and was killed before it could say so.
                await self.listen_again()
                await self._dead(Fault("InvalidState", "the VM's files here are gone"))
                self._go()
            return
        self.vm.vmotion = self.id
        self._armed = True  # as far as we know
        await self.listen_again()
        self._go()

    async def listen_again(self) -> None:
        """Be there for the source: after the agent's start, or that of a relay that lost all its streams."""
        if CONTROL in self.record.endpoints:
            stream = self.record.endpoints[CONTROL].name.partition(".")[0]
            await self._server.listen(await self._expose(stream))

    def _go(self) -> None:
        self._tasks.append(asyncio.create_task(self._guard(), name=f"vmotion guard {self.id}"))
        if not self._outcome.done():
            self._tasks.append(asyncio.create_task(self._witness(), name=f"vmotion witness {self.id}"))

    async def close(self) -> None:
        """The agent ends; the move goes on without it."""
        tasks = [*self._tasks, *([self._activating] if self._activating else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._server.close()

    # ------------------------------------------------------------------------------------- questions of the source

    async def _answer(self, do: str, arguments: Message) -> Message:
        self._met = True
        match do:
            case "hello":
                return self._hello(arguments)
            case "close-exports":
                await asyncio.shield(self._close_exports())
                return {}
            case "nvram":
                await self._write_nvram(base64.b64decode(arguments["content"]))
                return {}
            case "commit":
                return {"state": await asyncio.shield(self._commit_without_memory())}
            case "outcome":
                return {"state": await asyncio.shield(self._outcome)}
            case "give-up":
                return {"state": await asyncio.shield(self.give_up(_reason(arguments)))}
            case "bye":
                await asyncio.shield(self._take_leave(_reason(arguments)))
                return {}
        raise Fault("NotSupported", f"the target does not know {do!r}")

    def _hello(self, arguments: Message) -> Message:
        # The VM says which move is meant: between two sites each vCenter has an id of its own for it.
        vm = self.request.source.instance_uuid
        if arguments.get("version") != VERSION or arguments.get("vm") != vm:
            raise Fault("InvalidRequest", f"this takes VM {vm}, control protocol {VERSION}; asked for {arguments}")
        capabilities = self.inventory.host.capabilities
        return {"version": VERSION, "qemu": capabilities.qemu_version, "state": self.phase}

    async def _close_exports(self) -> None:
        """The disks are complete: let go of them, and let the end of the memory stream start the guest.

        A writable export that is left open makes QEMU abort with a permission conflict when it takes the disks over.
        """
        if self._outcome.done() or self.vm is None:
            return
        async with self._deciding:
            if self._outcome.done():
                return
            self.enter(VmotionPhase.SWITCHOVER)
            self._armed = True
            qmp = self.vm.qmp
            # Not with shared files: `cont` takes the images at once, which the source has still locked.
            arm = self.request.mode is VmotionMode.LIVE and not self.vm.files_shared
            orders = [qmp.execute("cont")] if arm else []
            if self._disks():
                orders.insert(0, qmp.execute("nbd-server-stop"))
            if arm:
                # Beside the orders: the guest does not wait for it. What comes from now on, its TAPs keep for it.
                self._activating = asyncio.create_task(self._connect_ports(), name=f"ports {self.id}")
            # QEMU takes them in this order; asked again, there is no server any more, which is as well.
            results = await asyncio.gather(*orders, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException) and not (isinstance(result, QmpError) and "NBD" in str(result)):
                    raise result

    async def _write_nvram(self, content: bytes) -> None:
        assert self.vm is not None
        path = await asyncio.to_thread(self.vm.prepare_nvram)
        await asyncio.to_thread(path.write_bytes, content)

    async def _commit_without_memory(self) -> str:
        """A powered-off VM is complete: it is ours from here on."""
        if self._outcome.done():
            return self._outcome.result()
        async with self._deciding:
            if not self._outcome.done():
                assert self.vm is not None
                await self.vm.kill()
                await self._has_run()
        return self._outcome.result()

    # ------------------------------------------------------------------------------------- its VIFs

    @property
    def view(self) -> Vmotion:
        switch = self.inventory.host.switch
        config = self.request.config
        nics = [nic for nic in config.nics if switch is not None and switch.on_segment(nic.network)]
        ids = [vif_id(config.instance_uuid, nic.key) for nic in nics]
        return super().view.model_copy(update={"vifs": ids, "vifs_active": self._ports_active})

    async def open_ports(self) -> None:
        """Both chassis are requested: OVN may know that the VIFs are here too. Fault `InvalidState` once it failed."""
        if self.vm is None or self.phase is VmotionPhase.FAILED or self.request.mode is not VmotionMode.LIVE:
            raise Fault(
                "InvalidState", f"vMotion {self.id} ({self.request.mode}) is {self.phase}: it has no ports here"
            )
        if not self.record.final:
            # The switchover may be under way and waits for nobody; of a VM that is given up the port is gone.
            await vifs.activate(self.vm)
            self._ports_active = True
            self.poll.bump()

    async def _connect_ports(self) -> None:
        """The guest is about to run here, or does: its TAPs go up, and OVN is told, if it was not told before."""
        assert self.vm is not None
        try:
            if self._ports_active:
                await vifs.bring_up(self.vm)
            else:
                await asyncio.gather(vifs.bring_up(self.vm), vifs.activate(self.vm))
                self._ports_active = True
        except SwitchError as error:
            _log.error("vMotion %s: a VIF of the VM has no connection: %s", self.id, error)

    def _tell(self, what: str) -> None:
        self.inventory.host.events.add("vmotion-changed", message=f"{self.request.config.name} {what}", vmotion=self.id)

    # ------------------------------------------------------------------------------------- what became of it

    async def _witness(self) -> None:
        """See the guest run, or its QEMU die."""
        assert self.vm is not None
        try:
            async with BlockWatch(self.vm.qmp) as watch:
                running = (await self.vm.qmp.execute("query-status"))["running"]
                await watch.until(lambda: running or watch.resumed > 0, "the guest")
                # Told at once: the source's guest stands still until then, and its network may be in doubt.
                self._settle(RUNNING)
        except (QmpGone, Fault):
            await self.vm.process.kill()
        async with self._deciding:
            if not self._outcome.done() and not self._ran():
                await self._dead(Fault("InvalidState", f"the target's QEMU ended: {self._last_words()}"))
            elif self.phase is not VmotionPhase.FAILED:
                await self._has_run()

    def _ran(self) -> bool:
        """Whether the guest ever ran here, as QEMU's own record says."""
        assert self.vm is not None
        if self.record.boot_id != boot_id():
            # The machine itself went down, and with it the record. It may have run: never yield.
            return True
        try:
            return _RAN in self.vm.process.run_states.read_text()
        except FileNotFoundError:
            return False

    def _last_words(self) -> str:
        assert self.vm is not None
        return self.vm.process.exit_text(self.vm.log_file)

    async def _has_run(self) -> None:
        """The VM is this host's."""
        assert self.vm is not None
        self._settle(RUNNING)
        if self.record.final:
            return
        self.vm.vmotion = None
        if self.vm.process.alive and self.request.mode is VmotionMode.LIVE:
            await self._connect_ports()
        if self.vm in self.inventory.incoming:
            await self.inventory.commit(self.vm)
        self.enter(VmotionPhase.SWITCHOVER)
        await self.end(VmotionPhase.SUCCEEDED)
        self._tell("is here")
        if self.vm.process.alive and self.request.mode is VmotionMode.LIVE:
            await self._announce(self.vm.qmp)

    async def _announce(self, qmp: Qmp) -> None:
        """Tell the switches again where the guest is: QEMU told them once, when they may still have looked away."""
        try:
            await qmp.execute("announce-self", initial=50, max=550, rounds=5, step=100)
        except Fault as error:
            _log.warning("vMotion %s: the guest was not announced: %s", self.id, error)

    async def give_up(self, fault: Fault) -> str:
        """Give the move up, unless the guest has run here. Returns `running`, or `dead` when that is certain."""
        async with self._deciding:
            if self._outcome.done():
                return self._outcome.result()
            if self.vm is not None and await self._runs_or_never_will():
                await self._has_run()
            else:
                await self._dead(fault)
            return self._outcome.result()

    async def _runs_or_never_will(self) -> bool:
        """True if the guest has run here; if not, it is certain that it will not: its QEMU is told not to start it."""
        assert self.vm is not None
        try:
            qmp = self.vm.qmp
            # To a QEMU that still receives, `stop` means: do not start the guest when all is there.
            was_running = (await qmp.execute("query-status"))["running"]
            await qmp.execute("stop")
            if not was_running and not self._ran():
                return False
            await qmp.execute("cont")
        except Fault:
            await self.vm.process.kill()
            return self._ran()
        return True

    async def _dead(self, fault: Fault) -> None:
        await self._undo()
        self._settle(DEAD)
        if not self.record.final:
            await self.end(VmotionPhase.FAILED, fault)
            self._tell("does not come here")

    async def _undo(self) -> None:
        """Leave nothing of the VM here. The control channel stays, for a source that asks what happened."""
        if self.vm is not None and self.vm in self.inventory.incoming:
            await self.inventory.discard(self.vm)

    async def _take_leave(self, fault: Fault) -> None:
        """The source knows how it ended and will not ask again: remember that before it is told so."""
        await self.give_up(fault)  # a source that leaves before the target knows the end has taken the VM back
        await self.ended.wait()
        await self._remember_parting()
        self._goodbye.set()

    async def _remember_parting(self) -> None:
        async with self._parting:
            if not self.record.parted:
                self.record.parted = True
                await self.save()

    async def part(self) -> None:
        """Nobody will ask any more how it ended: close what is open here. Fault `InvalidState` before the end."""
        if not self.record.final:
            raise Fault("InvalidState", f"vMotion {self.id} is {self.phase} here: it has not ended")
        # First remembered, then done: an agent killed in between closes at its start what nobody needs.
        await self._remember_parting()
        self._goodbye.set()
        await self._server.empty(_LAST_ANSWER)
        await self._hang_up()

    async def _hang_up(self) -> None:
        await self._server.close()
        await self.close_streams()

    def _settle(self, outcome: str) -> None:
        if not self._outcome.done():
            self._outcome.set_result(outcome)

    # ------------------------------------------------------------------------------------- patience

    async def _until_heard(self) -> None:
        try:
            async with asyncio.timeout(24 * 3600):
                await self._goodbye.wait()
        except TimeoutError:
            _log.warning("vMotion %s: the source never heard the outcome", self.id)

    async def _guard(self) -> None:
        """Give up when the source stays away; after the end, listen on until it has heard the outcome."""
        while not self._outcome.done():
            patience = _PATIENCE if self._met else _PATIENCE_AT_FIRST
            if self._server.away() > patience:
                fault = Fault("HostNotConnected", f"the source was not heard of for {patience:.0f} s")
                try:
                    await self.give_up(fault)
                except Exception as error:
                    _log.warning("vMotion %s can not be given up yet: %s", self.id, as_fault(error))
            await asyncio.sleep(1)
        await self.ended.wait()
        if self.phase is VmotionPhase.FAILED:
            await self.close_streams(but=CONTROL)  # nobody is there any more to receive
        # A source that never came has nothing to hear; after a restart we do not know whether it came.
        if self._met or self._recovered:
            await self._until_heard()
        await self.part()


def _reason(arguments: Message) -> Fault:
    return Fault(str(arguments.get("type", "RequestCanceled")), str(arguments.get("message", "the source left")))
