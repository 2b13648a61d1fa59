"""Realisation in OVN: its databases and northd, a pure compiler from a snapshot to rows, and the reconciler."""
