"""Streams between hosts and sites, carried by HAProxy in mutual TLS: opened, routed and closed by name."""
