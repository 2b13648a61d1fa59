"""Mobility between sites: pairing, the interconnect, and migrations as durable workflows.

`python -m landbridge.hcx` is the manager (connector on premises, cloud manager in the private cloud), `python -m
landbridge.hcx.ix` the interconnect appliance with its mobility agent. `landbridge.hcx.client` is how others call a
manager; docs/hcx.md tells the whole.
"""
