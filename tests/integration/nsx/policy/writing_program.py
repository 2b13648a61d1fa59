"""Writes pairs of services until it is killed, and says each number once it is kept. Its input is the store's URL."""

import asyncio
import sys

from landbridge.nsx.policy import changes
from landbridge.nsx.policy.contents import Draft
from landbridge.nsx.policy.store import Store


async def main() -> None:
    store = Store(sys.stdin.readline().strip())
    number = 0
    while True:

        def pair(draft: Draft, number: int = number) -> None:
            for half in ("a", "b"):
                changes.patch(draft, f"/infra/services/pair-{number}-{half}", {"description": "x" * 1000})

        await store.change(pair, "writer")
        print(number, flush=True)
        number += 1


asyncio.run(main())
