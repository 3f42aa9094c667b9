"""Estimate pi from points that arrive one batch at a time, until the estimate is good enough.

The input is asynchronous and has no end; leaving the loop cancels what is still under way.

    python monte_carlo.py [DIGITS]
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
from collections.abc import AsyncIterator

from distributed import Pool

POINTS = 20_000


async def seeds() -> AsyncIterator[int]:
    """Where batches come from: here a counter, elsewhere a message queue or a socket."""
    seed = 0
    while True:
        yield seed
        seed += 1
        if seed % 100 == 0:
            await asyncio.sleep(0)


def inside(seed: int) -> int:
    """How many of a batch of random points fall into the quarter circle."""
    dice = random.Random(seed)
    return sum(dice.random() ** 2 + dice.random() ** 2 < 1 for _ in range(POINTS))


async def main(digits: int) -> None:
    hits = batches = 0
    async with Pool() as pool:
        async for found in pool.imap(inside, seeds(), ordered=False):
            hits, batches = hits + found, batches + 1
            share = hits / (batches * POINTS)
            error = 4 * math.sqrt(share * (1 - share) / (batches * POINTS))
            if batches >= 10 and error < 0.5 * 10**-digits:
                break
    print(f"pi = {4 * share:.{digits + 1}f} +- {error:.{digits + 1}f}, from {batches * POINTS:,} points")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2))
