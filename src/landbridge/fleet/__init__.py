"""Machines to build a site on, and the services started on them."""

from landbridge.fleet.machine import Machine, MachineError, ServiceState
from landbridge.fleet.netns import NamespaceMachine

__all__ = ["Machine", "MachineError", "NamespaceMachine", "ServiceState"]
