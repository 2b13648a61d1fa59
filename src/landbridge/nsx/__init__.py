"""NSX: the Policy API, and its realisation in OVN.

`policy` keeps what people want (intents, a tree of typed objects) and answers `/policy/api/v1`; it knows no OVN. `ovn`
makes it so: a compiler turns a snapshot of the tree into rows of OVN's northbound database, a reconciler writes the
difference, again and again. `fabric` knows the hosts, VMs and virtual NICs that the intents apply to.
"""
