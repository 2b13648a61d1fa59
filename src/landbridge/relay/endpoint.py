"""Where a stream is reached."""

from pydantic import BaseModel, ConfigDict


class Endpoint(BaseModel):
    """Where a stream is reached: mutual TLS to `address`:`port`, `name` as SNI and in the peer's certificate.

    `authority` (PEM) vouches for that certificate if the peer is of another site; empty: the site's own does.
    """

    model_config = ConfigDict(extra="forbid")

    address: str
    port: int
    name: str
    authority: str = ""
