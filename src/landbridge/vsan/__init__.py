"""Datastore engines: where VM files live, and how a disk of theirs becomes a QEMU block node."""
