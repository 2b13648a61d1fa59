"""The edge node: a chassis of OVN with a way out of the overlay, where gateways have their uplinks and services.

It is the host's switch and overlay (`landbridge.esx`) without VMs: the NSX manager makes it a transport node in the
same way, and gateway ports are bound to it by the southbound database.
"""
