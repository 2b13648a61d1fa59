"""What a machine of a site can do for whoever builds the site: run a program to its end, keep a service running.

A machine is a network namespace here (`landbridge.fleet.netns`); the same verbs are enough for one behind SSH.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class MachineError(Exception):
    """A machine refused or failed: which one, what was asked, what it said."""


@dataclass(frozen=True)
class ServiceState:
    """A service as it was found. `pid` is None when it does not run."""

    name: str
    pid: int | None
    log: Path

    @property
    def running(self) -> bool:
        return self.pid is not None


class Machine(ABC):
    """One machine; `name` is unique in its fleet."""

    name: str

    @abstractmethod
    async def execute(self, *argv: str, timeout: float = 30) -> str:
        """Run a program to its end and return its standard output; MachineError with its complaint if it fails."""

    @abstractmethod
    async def start(self, service: str, argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> int:
        """Have `service` run, apart from us: it outlives the caller. Returns its pid; one that runs is left alone."""

    @abstractmethod
    async def stop(self, service: str, *, timeout: float = 15) -> None:
        """End the service: in order, and after `timeout` seconds by force."""

    @abstractmethod
    def state(self, service: str) -> ServiceState:
        """Whether the service runs, and where its log is."""

    async def restart(self, service: str, argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> int:
        await self.stop(service)
        return await self.start(service, argv, environment=environment)
