"""The interconnect appliance: a relay with one side in the site and one on the WAN, and the mobility agent beside it.

To its site's vCenter the mobility agent is a host: it answers the host agent's API. It holds no VM and copies no byte;
what it is asked to receive or send, the HCX managers join with what the other site's appliance is asked.
"""
