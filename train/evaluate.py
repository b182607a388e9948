"""The figures of the codec in the box: python -m vocos_onnx_train.evaluate --models models --clips DIR

Encodes every speech clip with the encoder, decodes the tokens with the exported model as its users do, and prints
PESQ-WB of each clip at each bandwidth. ``--tokens OUT`` also writes the tokens of the clips named with ``--clip``.
"""

from __future__ import annotations

import argparse
import csv
from math import gcd
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf
import torch
from pesq import pesq
from safetensors.torch import load_file
from scipy.signal import resample_poly

from vocos_onnx import VocosONNX

from .codec import CODEBOOKS_OF, HOP, NUM_CODEBOOKS, SAMPLE_RATE, Encoder, ResidualQuantizer


def pesq_wb(reference: npt.NDArray[np.floating], estimate: npt.NDArray[np.floating], sample_rate: int) -> float:
    """Wide-band PESQ (ITU-T P.862.2, 1.04 to 4.64) of two signals (N,), both resampled to 16 kHz."""
    return float(pesq(16_000, *(resample(x, sample_rate, 16_000) for x in (reference, estimate)), "wb"))


def resample(audio: npt.NDArray[np.floating], rate: int, to: int) -> npt.NDArray[np.floating]:
    factor = gcd(rate, to)
    return resample_poly(audio, to // factor, rate // factor) if rate != to else audio


def read(path: Path) -> npt.NDArray[np.float32]:
    """A clip of any rate and channel count as (N,) at the codec's rate."""
    audio, rate = sf.read(path, dtype="float32", always_2d=True)
    return resample(audio.mean(axis=1), rate, SAMPLE_RATE).astype(np.float32)


class Tokenizer:
    """The encoder in ``models/encoder.safetensors`` with the codebooks that the exported model carries."""

    def __init__(self, models: Path, vocos: VocosONNX):
        self.encoder, self.quantizer = Encoder().eval(), ResidualQuantizer()
        self.encoder.load_state_dict(load_file(models / "encoder.safetensors"))
        self.quantizer.codebooks.copy_(torch.from_numpy(vocos._backbone.codebooks()))

    @torch.inference_mode()
    def __call__(self, audio: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Audio (N,) -> tokens (16, ceil(N / 320))."""
        padded = torch.from_numpy(np.pad(audio, (0, -len(audio) % HOP)))[None]
        codes: npt.NDArray[np.int64] = self.quantizer.encode(self.encoder(padded), NUM_CODEBOOKS)[:, 0].numpy()
        return codes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vocos_onnx_train.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="folder with the .onnx and encoder.safetensors")
    parser.add_argument("--clips", type=Path, required=True, help="folder with index.csv and recordings of any rate")
    parser.add_argument("--tokens", type=Path, help="folder to write NAME.npz to, for each --clip")
    parser.add_argument("--clip", action="append", default=[], metavar="NAME.flac")
    args = parser.parse_args()
    vocos = VocosONNX(args.models / "vocos-codec-24khz.onnx")
    tokenize = Tokenizer(args.models, vocos)
    with (args.clips / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    for name in args.clip:
        row = rows[name]
        tokens = tokenize(read(args.clips / name)).astype(np.int16)
        source = f"{row['description']}; {row['attribution']}, {row['licence'].split(' (')[0]}"
        np.savez_compressed(args.tokens / f"{Path(name).stem}.npz", tokens=tokens, source=source)
    scores = []
    print("| clip | " + " | ".join(f"{kbps:g} kbps" for kbps in vocos.bandwidths) + " |\n|---|" + "---|" * 4)
    for name in sorted(n for n in rows if n.startswith("speech_")):
        audio = read(args.clips / name)
        tokens = tokenize(audio)
        score = [pesq_wb(audio, vocos.decode(tokens[:k])[: len(audio)], SAMPLE_RATE) for k in CODEBOOKS_OF]
        scores.append(score)
        print(f"| {Path(name).stem} | " + " | ".join(f"{s:.2f}" for s in score) + " |", flush=True)
    print(f"| **mean of {len(scores)}** | " + " | ".join(f"**{s:.2f}**" for s in np.mean(scores, axis=0)) + " |")


if __name__ == "__main__":
    main()
