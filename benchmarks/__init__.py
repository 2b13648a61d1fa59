"""Measurements, each against its peer or its physical limit in one run. Nothing here is a test."""
