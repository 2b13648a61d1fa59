"""Machines to build a site on, and the processes started on them."""
