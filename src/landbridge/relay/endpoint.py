"""Where a stream is reached."""

from pydantic import BaseModel, ConfigDict


class Endpoint(BaseModel):
    """Where a stream is reached: mutual TLS to `address`:`port`, `name` as SNI and in the peer's certificate."""

    model_config = ConfigDict(extra="forbid")

    address: str
    port: int
    name: str
