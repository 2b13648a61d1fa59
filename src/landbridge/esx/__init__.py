"""The host: runs VMs with VMware virtual hardware on QEMU, and answers for them over an API of its own.

`model` is what the API speaks, `client` the way to call it, `agent` the daemon that answers.
"""
