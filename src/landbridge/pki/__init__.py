"""Certificates and trust: one authority per site, one identity per component, mutual TLS between them.

`Authority` issues, `Identity` is what a component holds on disk and turns into TLS contexts, `PeerName` is who a
certificate says the other end is. Private keys are files of mode 0600 and never leave them.
"""

from landbridge.pki.authority import Authority, create_request
from landbridge.pki.identity import Identity, PeerName, TrustError, peer_name

__all__ = ["Authority", "Identity", "PeerName", "TrustError", "create_request", "peer_name"]
