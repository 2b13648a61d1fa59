"""A VM's hardware in two languages: the host agent's `VmConfig` and the vSphere API's `vim.vm.*`.

`devices` and `config_info` turn what a VM is into what clients read; `spec` turns the `ConfigSpec` a client sends into
the new `VmConfig`, or into the fault vSphere would answer. Nothing here talks to anybody: these are conversions.
"""
