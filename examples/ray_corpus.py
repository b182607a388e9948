"""Encodes a folder of recordings to tokens, on a Ray cluster or on this machine; a second run resumes the first.

The folder of the tokens also records which items are done.

    pip install "vocos-onnx[cpu,ray]"
    python ray_corpus.py recordings/ tokens/ [address of the cluster]
"""

import sys

from vocos_onnx.batch import Settings, Summary, run
from vocos_onnx.batch.ray_engine import through_ray


def shown(summary: Summary) -> None:
    print(f"\r{summary.done} of {summary.items} done, {summary.failed} failed", end="", file=sys.stderr)


def main(recordings: str, tokens: str, address: str | None = None) -> None:
    settings = Settings.of("encode", bandwidth=6.0)
    summary = run(recordings, tokens, settings, engine=through_ray(address), resume=True, progress=shown)
    print(f"\n{summary.done} of {summary.items} recordings, {summary.hours:.3f} hours in this run")
    if summary.failed:
        sys.exit(f"{summary.failed} failed, such as {summary.reason}: see {summary.errors}")


if __name__ == "__main__":  # without this line, the worker processes would run the script again
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
