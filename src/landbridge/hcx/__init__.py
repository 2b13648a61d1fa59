"""Mobility between sites: pairing, the interconnect, and migrations as durable workflows."""
