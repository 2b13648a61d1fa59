"""The command line: what people type, on top of the public APIs."""
