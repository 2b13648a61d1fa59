"""The Policy API's objects, one module per family. Fields and their values are NSX's own (NSX 4 REST reference).

A field that is not here is refused with its name: what can not be realised is not kept as if it could. Fields whose
only sense here is their default are `Literal`s of it.
"""
