"""Soak test of many live streams through one pool: python benchmarks/pool_soak.py

    python benchmarks/pool_soak.py [--model M] [--streams 64] [--minutes 10]

Each thread opens a stream, pushes chunks of random lengths, and leaves: at the end of its tokens, or earlier, by bad
input, by closing the stream, or by abandoning it. The audio is compared with that of ``decode``. Exits with 1 if any
differs, or if the resident memory grows after the first minute (in runs under 3 minutes, after a third of the time).
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import threading
import time
from pathlib import Path

import numpy as np

from vocos_onnx import StreamPool, VocosONNX

LONGEST = 300  # frames of a sequence
GROWTH = 1.1  # the most that resident memory may grow
ENDS = ("flush", "flush", "flush", "bad", "close", "abandon")


def resident() -> float:
    """Resident memory of this process, in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines["VmRSS"].split()[0]) / 1024


class Soak:
    """Shared by the threads. ``counts``: sequences by how they ended. ``worst``: difference from ``decode`` / peak."""

    def __init__(self, vocos: VocosONNX, pool: StreamPool, until: float):
        self.vocos, self.pool, self.until = vocos, pool, until
        self.counts = dict.fromkeys(ENDS, 0)
        self.frames, self.worst = 0, 0.0
        self.errors: list[BaseException] = []
        self._lock = threading.Lock()
        rng = np.random.default_rng(0)
        self._tokens = [rng.integers(1024, size=(8, rng.integers(1, LONGEST + 1))) for _ in range(50)]
        self._audio = [vocos.decode(tokens) for tokens in self._tokens]

    def run(self, seed: int) -> None:
        rng = random.Random(seed)
        try:
            while time.monotonic() < self.until and not self.errors:
                self._sequence(rng)
        except BaseException as error:
            self.errors.append(error)
            raise

    def _sequence(self, rng: random.Random) -> None:
        which, end = rng.randrange(len(self._tokens)), rng.choice(ENDS)
        tokens, expected = self._tokens[which], self._audio[which]
        stop = tokens.shape[1] if end == "flush" else rng.randrange(tokens.shape[1] + 1)
        stream = self.pool.open()
        audio, start = [np.zeros(0, np.float32)], 0
        longest = rng.choice((1, 8, 8, 8, 40, LONGEST))
        while start < stop:
            length = rng.randint(1, longest)
            audio.append(stream.push(tokens[:, start : min(start + length, stop)]))
            start += length
            if rng.random() < 0.1:
                time.sleep(rng.random() * 0.05)  # stall
        if end == "flush":
            audio.append(stream.flush())
        elif end == "close":
            stream.close()
        elif end == "bad":
            try:
                stream.push(tokens + 1024)
            except ValueError:
                pass
            else:
                raise AssertionError("bad tokens were taken")
        given = np.concatenate(audio)
        assert end != "flush" or len(given) == len(expected)
        difference = np.abs(given - expected[: len(given)]).max(initial=0) / np.abs(expected).max()
        assert difference <= 1e-5, difference
        with self._lock:
            self.counts[end] += 1
            self.frames += stop
            self.worst = max(self.worst, float(difference))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="by default the bundled codec")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10)
    args = parser.parse_args()
    vocos = VocosONNX(args.model)
    begun = time.monotonic()
    seconds = 60 * args.minutes
    pool = vocos.stream_pool(args.streams)
    soak = Soak(vocos, pool, begun + seconds)
    threads = [threading.Thread(target=soak.run, args=(seed,), daemon=True) for seed in range(args.streams)]
    for thread in threads:
        thread.start()
    warm, most = min(60.0, seconds / 3), 0.0
    first = 0.0
    while time.monotonic() < soak.until and not soak.errors:
        time.sleep(min(5, max(0.1, soak.until - time.monotonic())))
        now, took = resident(), time.monotonic() - begun
        if took >= warm:
            first = first or now
            most = max(most, now)
        print(f"  {took:.0f} s: {now:.0f} MB, {sum(soak.counts.values())} sequences, {len(pool)} open", flush=True)
    for thread in threads:
        thread.join(60)
    hanging = sum(thread.is_alive() for thread in threads)
    gc.collect()
    took = time.monotonic() - begun
    audio = soak.frames * vocos.hop_length / vocos.sample_rate
    ends = ", ".join(f"{count} x {end}" for end, count in soak.counts.items())
    print(f"- {args.streams} streams for {args.minutes:g} minutes: {ends}; {audio / took:.0f} s of audio in a second")
    print(f"- at most {soak.worst:.1e} of the peak from decode; {hanging} threads hang, {len(pool)} places are taken")
    print(f"- {first:.0f} MB after {warm:.0f} s, at most {most:.0f} MB after that ({most / max(1, first):.2f})")
    if soak.errors or hanging or len(pool) or most > GROWTH * first:
        sys.exit(1)


if __name__ == "__main__":
    main()
