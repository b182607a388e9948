"""The figures of the codec in the box: python -m vocos_onnx_train.evaluate --models models --clips DIR

Encodes every speech clip and decodes the tokens with the exported models as their users do, and prints PESQ-WB of each
clip at each bandwidth. ``--tokens OUT`` also writes the tokens of the clips named with ``--clip``.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pesq import pesq

from vocos_onnx import EncodecONNX, VocosONNX, load_audio
from vocos_onnx.audio import resample

from .codec import CODEBOOKS_OF, SAMPLE_RATE


def pesq_wb(reference: npt.NDArray[np.floating], estimate: npt.NDArray[np.floating], sample_rate: int) -> float:
    """Wide-band PESQ (ITU-T P.862.2, 1.04 to 4.64) of two signals (N,), both resampled to 16 kHz."""
    return float(
        pesq(16_000, *(resample(x.astype(np.float32), sample_rate, 16_000) for x in (reference, estimate)), "wb")
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vocos_onnx_train.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="folder with the two .onnx files")
    parser.add_argument("--clips", type=Path, required=True, help="folder with index.csv and recordings of any rate")
    parser.add_argument("--tokens", type=Path, help="folder to write NAME.npz to, for each --clip")
    parser.add_argument("--clip", action="append", default=[], metavar="NAME.flac")
    args = parser.parse_args()
    vocos = VocosONNX(args.models / "vocos-codec-24khz.onnx")
    encoder = EncodecONNX(args.models / "vocos-codec-24khz-encoder.onnx")
    with (args.clips / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    for name in args.clip:
        row = rows[name]
        tokens = encoder.encode(load_audio(args.clips / name, SAMPLE_RATE), SAMPLE_RATE, vocos.bandwidths[-1]).astype(
            np.int16
        )
        source = f"{row['description']}; {row['attribution']}, {row['licence'].split(' (')[0]}"
        np.savez_compressed(args.tokens / f"{Path(name).stem}.npz", tokens=tokens, source=source)
    scores = []
    print("| clip | " + " | ".join(f"{kbps:g} kbps" for kbps in vocos.bandwidths) + " |\n|---|" + "---|" * 4)
    for name in sorted(n for n in rows if n.startswith("speech_")):
        audio = load_audio(args.clips / name, SAMPLE_RATE)
        tokens = encoder.encode(audio, SAMPLE_RATE, vocos.bandwidths[-1])
        score = [pesq_wb(audio, vocos.decode(tokens[:k])[: len(audio)], SAMPLE_RATE) for k in CODEBOOKS_OF]
        scores.append(score)
        print(f"| {Path(name).stem} | " + " | ".join(f"{s:.2f}" for s in score) + " |", flush=True)
    print(f"| **mean of {len(scores)}** | " + " | ".join(f"**{s:.2f}**" for s in np.mean(scores, axis=0)) + " |")


if __name__ == "__main__":
    main()
