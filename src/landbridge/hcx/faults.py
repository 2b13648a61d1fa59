"""Errors as HCX's REST API shows them: `{success, completed, time, version, data, errors: [{error, text, data}]}`."""

import time
from typing import Any

VERSION = "4.0"


class ApiFault(Exception):  # noqa: N818 - what the API calls it
    """An answer that is an error: `error` is short and stable, `text` is for people."""

    def __init__(self, status: int, error: str, text: str, data: list[dict[str, Any]] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.error = error
        self.text = text
        self.data = data or []

    def body(self) -> dict[str, Any]:
        return envelope(None, [{"error": self.error, "text": self.text, "data": self.data}])


def envelope(data: Any, errors: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The frame most of HCX's answers stand in; `time` is in milliseconds since the epoch."""
    return {
        "success": not errors,
        "completed": True,
        "time": int(time.time() * 1000),
        "version": VERSION,
        "data": {} if data is None else data,
        "errors": errors,
    }
