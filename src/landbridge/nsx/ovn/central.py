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

import json
import logging
from pathlib import Path

from landbridge.esx.daemons import Daemons
from landbridge.pki import Identity

_log = logging.getLogger(__name__)

_SCHEMAS = Path("/usr/share/ovn")
_PORT = 6642
# Chassis far away must not be given up while their machine is merely busy.
_INACTIVITY_PROBE = 60_000  # milliseconds
# The southbound server's options, and the columns of its table SSL that they are read from.
_SSL = {"private-key": "private_key", "certificate": "certificate", "ca-cert": "ca_cert"}


class CentralError(Exception):
    """OVN's central part could not do what was asked: what, and what the engine said."""


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
        self._daemons = Daemons("OVN's central part", run_dir, CentralError, namespace=namespace)
        self._daemons.add("ovnnb", self._start_northbound)
        self._daemons.add("ovnsb", self._start_southbound)
        self._daemons.add("ovn-northd", self._start_northd)

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
        return self._daemons.pids()

    async def start(self) -> None:
        """Bring the daemons up, or find those that run, and keep them up until `close` or `stop`."""
        self._state.mkdir(parents=True, exist_ok=True)
        self._run.mkdir(parents=True, exist_ok=True)
        self._run.chmod(0o700)
        await self._daemons.start()
        # One that ran already may listen as an earlier configuration said.
        await self._open_to_chassis()
        self._daemons.watch()

    async def close(self) -> None:
        """Let go of the daemons, which go on."""
        await self._daemons.close()

    async def stop(self) -> None:
        """End the daemons. The databases stay."""
        await self._daemons.stop()

    # -- daemons --------------------------------------------------------------------------------------------

    async def _start_northbound(self) -> None:
        await self._start_database("nb")

    async def _start_southbound(self) -> None:
        remotes = ["--remote=db:OVN_Southbound,SB_Global,connections"]
        remotes += [f"--{option}=db:OVN_Southbound,SSL,{column}" for option, column in _SSL.items()]
        await self._start_database("sb", *remotes)
        await self._open_to_chassis()

    async def _start_northd(self) -> None:
        databases = (f"--ovnnb-db=unix:{self.northbound}", f"--ovnsb-db=unix:{self.southbound}")
        await self._daemons.daemon("ovn-northd", *databases, self._daemons.unixctl("ovn-northd"))

    async def _start_database(self, which: str, *remotes: str) -> None:
        name = f"ovn{which}"
        file, schema = self._state / f"{name}.db", _SCHEMAS / f"ovn-{which}.ovsschema"
        socket = self._run / f"{which}.sock"
        if not file.exists():
            await self._execute("ovsdb-tool", "create", str(file), str(schema))
        options = (f"--remote=punix:{socket}", *remotes, self._daemons.unixctl(name))
        await self._daemons.daemon(name, str(file), *options, program="ovsdb-server")
        if (await self._execute("ovsdb-client", "needs-conversion", f"unix:{socket}", str(schema))).strip() == "yes":
            _log.info("converting %s to the schema of the OVN that is installed", file)
            await self._execute("ovsdb-client", "convert", f"unix:{socket}", str(schema))

    async def _open_to_chassis(self) -> None:
        """The listener and its certificates, as rows; written only if they differ, since writing drops connections."""
        if self._listen is None or self._identity is None:
            return
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
        return await self._daemons.execute(*arguments)
