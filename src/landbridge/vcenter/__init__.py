"""The inventory and the vSphere API: one module per family of managed objects."""
