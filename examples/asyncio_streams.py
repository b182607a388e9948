"""Several listeners in one event loop: their chunks go through the network together, and one of them disconnects.

It uses the bundled codec and downloads nothing.

    pip install "vocos-onnx[cpu]"
    python asyncio_streams.py [listeners]
"""

import asyncio
import sys
from collections.abc import AsyncIterator

import numpy as np

from vocos_onnx import StreamPool, VocosONNX, demo_tokens


async def as_spoken(codes: np.ndarray) -> AsyncIterator[np.ndarray]:
    """Yields chunks of 8 frames like a language model, with pauses in between."""
    for start in range(0, codes.shape[1], 8):
        await asyncio.sleep(0.02)
        yield codes[:, start : start + 8]


async def samples_heard(pool: StreamPool, codes: np.ndarray) -> int:
    async with pool.open(bandwidth=6.0) as stream:
        samples = [len(await stream.apush(chunk)) async for chunk in as_spoken(codes)]
        return sum(samples) + len(await stream.aflush())


async def main(listeners: int = 8) -> None:
    codes = demo_tokens().codes[:8, :200]
    async with VocosONNX().stream_pool() as pool, asyncio.TaskGroup() as group:
        tasks = [group.create_task(samples_heard(pool, codes)) for _ in range(listeners)]
        group.create_task(samples_heard(pool, codes)).cancel()  # frees its place at once; the others do not wait for it
    print(f"{listeners} listeners: {[task.result() for task in tasks]} samples")


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
