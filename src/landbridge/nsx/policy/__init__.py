"""The Policy API's side: object model, store, rules about references, search, the HTTPS server."""
