"""The inventory and the vSphere API: one module per family of managed objects.

The core: `managed` (what a managed object is), `inventory` (all of them), `calls` (who calls), `tasks`, `events`,
`sessions`, `store`, `server` (HTTPS). `objects` holds the API's types. What the core asks of the rest:

- `hosts.Hosts(inventory)` with `async start()`, after the inventory was loaded, and `async stop()`; it is
  `inventory.hosts`.
- `provisioning`: `create_vm(call, folder, config, pool, host)`, `register_vm(call, folder, path, name, as_template,
  pool, host)`, `add_standalone_host(call, folder, spec, comp_res_spec, add_connected, license_)`, `create_dvs(call,
  folder, spec)`, `power_on_multi_vm(call, datacenter, vm, option)`, each `async` and answering the reference of a
  task; `await create_cluster(call, folder, name, spec)` answering the new cluster's managed object.
- every Datastore object has `access() -> (HostClient, name)`: the client of a connected host that sees it and the
  datastore's name there; HostNotConnected if there is none.
- `provisioning` and `relocate` may have a function `resumes(tasks)` that calls `tasks.on_resume`.
"""
