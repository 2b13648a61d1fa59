"""The two sides of a host's relay: peers of the own site, and peers that another site's authority vouches for."""

from landbridge.relay import Endpoint

SITE, REMOTE = "site", "remote"


def side_of(endpoint: Endpoint) -> str:
    """The side on which an endpoint is dialled."""
    return REMOTE if endpoint.authority else SITE
