"""landbridge: a private cloud that answers to vSphere's tools, and carries running VMs into it."""

__version__ = "0.1.0"
