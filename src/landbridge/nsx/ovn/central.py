"""OVN's central part: the northbound and southbound databases and ovn-northd.

    central = Central(run_dir=Path("/run/landbridge/nsx"), state_dir=state, identity=identity, listen="10.20.0.3")
    await central.start()
    ... central.northbound is the socket of the northbound database

All three run detached (in `namespace` if given), go on when the manager ends, and are found again by another `Central`
on the same directories. While one is open it starts what died, and makes a database anew whose file is gone:
the northbound is filled again by the reconciler, the southbound by ovn-northd and the chassis.

Only the manager may write the northbound database, so it listens on a socket in a directory of mode 0700. Chassis come
to the southbound one by mutual TLS, and its role `ovn-controller` lets each change only the rows of the chassis that
its certificate's common name is.
"""

import asyncio
import contextlib
import json
import logging
from pathlib import Path

from landbridge.nsx.ovn.daemon import CentralError, Daemon, execute, first_exit
from landbridge.pki import Identity

_log = logging.getLogger(__name__)

_SCHEMAS = Path("/usr/share/ovn")
_RESTART_PAUSE = 1.0  # seconds between attempts to start a daemon that does not come up
_PORT = 6642
# Chassis far away must not be given up while their machine is merely busy.
_INACTIVITY_PROBE = 60_000  # milliseconds
# The southbound server's options, and the columns of its table SSL that they are read from.
_SSL = {"private-key": "private_key", "certificate": "certificate", "ca-cert": "ca_cert"}


class Central:
    """The three daemons. All methods may be called again with the same effect."""

    def __init__(
        self,
        *,
        run_dir: Path,
        state_dir: Path,
        identity: Identity | None = None,
        listen: str | None = None,
        namespace: str | None = None,
    ) -> None:
        """`run_dir` holds sockets, so its path must be short; `state_dir` holds the databases.

        `listen` is the address at which chassis reach the southbound database, with `identity`'s certificate; without
        it there is only a UNIX socket.
        """
        if listen is not None and identity is None:
            raise CentralError("chassis come by TLS: an address to listen on needs an identity")
        self._run = run_dir
        self._state = state_dir
        self._identity = identity
        self._listen = listen
        self._namespace = namespace
        self._databases = {
            "nb": Daemon("ovsdb-server", "ovnnb", run_dir, namespace),
            "sb": Daemon("ovsdb-server", "ovnsb", run_dir, namespace),
        }
        self._northd = Daemon("ovn-northd", "ovn-northd", run_dir, namespace)
        self._lock = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def northbound(self) -> Path:
        """Socket of the northbound database."""
        return self._run / "nb.sock"

    @property
    def southbound(self) -> Path:
        """Socket of the southbound database, for this machine; chassis have `southbound_remote`."""
        return self._run / "sb.sock"

    @property
    def southbound_remote(self) -> str | None:
        """What a chassis connects to, as OVN writes it."""
        return f"ssl:{self._listen}:{_PORT}" if self._listen else None

    def pids(self) -> dict[str, int | None]:
        """The processes by name: ovnnb, ovnsb, ovn-northd."""
        return {daemon.name: daemon.pid() for daemon in self._daemons()}

    async def start(self) -> None:
        """Bring the daemons up, or find those that run, and keep them up until `close` or `stop`."""
        self._state.mkdir(parents=True, exist_ok=True)
        self._run.mkdir(parents=True, exist_ok=True)
        self._run.chmod(0o700)
        async with self._lock:
            await self._start_daemons()
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._keep_up(), name="OVN central watcher")

    async def close(self) -> None:
        """Let go of the daemons, which go on."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None

    async def stop(self) -> None:
        """End the daemons. The databases stay."""
        await self.close()
        async with self._lock:
            for daemon in reversed(self._daemons()):
                await daemon.stop()

    # -- daemons --------------------------------------------------------------------------------------------

    def _daemons(self) -> list[Daemon]:
        return [*self._databases.values(), self._northd]

    async def _start_daemons(self) -> None:
        for which, daemon in self._databases.items():
            if daemon.pid() is None:
                await self._start_database(which, daemon)
        if self._listen is not None:
            await self._open_to_chassis()
        await self._northd.start(f"--ovnnb-db=unix:{self.northbound}", f"--ovnsb-db=unix:{self.southbound}")

    async def _start_database(self, which: str, daemon: Daemon) -> None:
        file, schema = self._state / f"ovn{which}.db", _SCHEMAS / f"ovn-{which}.ovsschema"
        socket = self._run / f"{which}.sock"
        if not file.exists():
            await self._execute("ovsdb-tool", "create", str(file), str(schema))
        remotes = [f"--remote=punix:{socket}"]
        if which == "sb":
            remotes += ["--remote=db:OVN_Southbound,SB_Global,connections"]
            remotes += [f"--{option}=db:OVN_Southbound,SSL,{column}" for option, column in _SSL.items()]
        await daemon.start(str(file), *remotes)
        await self._execute(f"ovn-{which}ctl", f"--db=unix:{socket}", "--timeout=15", "init")
        if (await self._execute("ovsdb-client", "needs-conversion", f"unix:{socket}", str(schema))).strip() == "yes":
            _log.info("converting %s to the schema of the OVN that is installed", file)
            await self._execute("ovsdb-client", "convert", f"unix:{socket}", str(schema))

    async def _open_to_chassis(self) -> None:
        """The listener and its certificates, as rows; written only if they differ, since writing drops connections."""
        assert self._identity is not None
        wanted_ssl = [str(path) for path in (self._identity.key, self._identity.certificate, self._identity.ca)]
        target = f"pssl:{_PORT}:{self._listen}"
        ssl = await self._list("SSL", "private_key,certificate,ca_cert,ssl_protocols")
        if ssl != [[*wanted_ssl, "TLSv1.2"]]:
            # "TLSv1.2" is the least that is taken: this Open vSwitch knows no name for 1.3, and allows it always.
            await self._sbctl("set-ssl", *wanted_ssl, "TLSv1.2")
        connections = await self._list("Connection", "target,role,inactivity_probe")
        if connections != [[target, "ovn-controller", _INACTIVITY_PROBE]]:
            await self._sbctl("set-connection", "role=ovn-controller", target)
            await self._sbctl("set", "connection", ".", f"inactivity_probe={_INACTIVITY_PROBE}")

    async def _list(self, table: str, columns: str) -> list[list[object]]:
        answer = json.loads(await self._sbctl("--format=json", f"--columns={columns}", "list", table))
        return list(answer["data"])

    async def _sbctl(self, *arguments: str) -> str:
        return await self._execute("ovn-sbctl", f"--db=unix:{self.southbound}", "--timeout=15", *arguments)

    async def _execute(self, *arguments: str) -> str:
        return await execute(*arguments, run_dir=self._run)

    async def _keep_up(self) -> None:
        """Sleep until a daemon dies, start it again, and so on. Nothing is polled."""
        while True:
            try:
                async with self._lock:
                    await self._start_daemons()
                    pids = [pid for pid in self.pids().values() if pid is not None]
            except (CentralError, OSError) as error:
                _log.error("OVN's central part does not start: %s", error)
                await asyncio.sleep(_RESTART_PAUSE)
                continue
            if len(pids) == len(self._daemons()):
                await first_exit(pids)
            _log.warning("OVN's central part in %s lost a process; starting it again", self._run)
