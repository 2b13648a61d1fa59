"""Migrations: their shapes, their validation, the two halves at the two sites, and the workflow that joins them."""
