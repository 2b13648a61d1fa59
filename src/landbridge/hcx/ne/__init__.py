"""The network extension appliance: a site's network and the other site's are one layer 2 network.

    site's switch --VLAN/VIF-- Open vSwitch --veth-- bridge --VXLAN-- WireGuard --UDP 4500-- the other appliance

Each extended network has a bridge of its own with two ports, its leg into the site and its VXLAN device, so nothing is
ever forwarded from tunnel to tunnel. Frames flow in the kernel, in `ovs-vswitchd` and, where the kernel has no
WireGuard, in `wireguard-go`; all of it goes on when the appliance's daemon ends.
"""
