"""Exports a trained model at the right level: python -m vocos_onnx_train.level CHECKPOINT MODEL.onnx INDEX...

Losses of spectra leave a model a little too quiet: what it is not sure of, it makes soft. This measures the level
errors of copies of recordings, one for each speaker, at every bandwidth, and takes their median off the
log-magnitudes that the head predicts: one gain, for all frequencies and bandwidths. CHECKPOINT is the folder that
training writes, with config.yaml and pytorch_model.bin; it stays as it is.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from vocos_onnx import load_audio
from vocos_onnx.arrays import Float
from vocos_onnx.evaluate.metrics import level_error
from vocos_onnx.evaluate.systems import open_systems
from vocos_onnx_export import export

from .checkpoint import save

SPEAKERS, SECONDS = 60, 10.0  # at most


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vocos_onnx_train.level", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("indices", type=Path, nargs="+", metavar="INDEX", help="csv: file, split, speaker")
    parser.add_argument("--encoder", type=Path, help="the encoder's .onnx, for a codec")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "first.onnx"
        export(str(args.checkpoint), str(first), report=lambda line: None)
        systems = open_systems([first], args.encoder)
        try:
            recordings = read(args.indices, systems[0].vocos.sample_rate)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        errors = []
        for system in systems:
            for recording in recordings:
                copy = system.copy(recording)
                errors.append(level_error(recording[: len(copy)], copy, system.vocos.sample_rate))
        gain = -float(np.nanmedian(errors))
        print(f"gain of {gain:+.2f} dB, from {len(recordings)} recordings")
        louder = Path(folder) / args.checkpoint.resolve().parent.name
        shutil.copytree(args.checkpoint, louder)
        weights = torch.load(louder / "pytorch_model.bin", weights_only=True)
        # The head predicts the log-magnitudes of n_fft / 2 + 1 frequencies, then their phases.
        weights["head.out.bias"][: systems[0].vocos.config.n_fft // 2 + 1] += gain * math.log(10) / 20
        save(weights, louder / "pytorch_model.bin")
        export(str(louder), str(args.model), report=print)


def read(indices: list[Path], sample_rate: int) -> list[Float]:
    """One training recording (N,) of each speaker, the same in every run.

    Raises ValueError for an index without the columns, or without a training recording, and what load_audio raises.
    """
    of_speaker: dict[str, list[Path]] = {}
    for index in indices:
        with index.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if missing := {"file", "split", "speaker"} - set(rows.fieldnames or ()):
                raise ValueError(
                    f"{index} has no column {', '.join(sorted(missing))}: expected file, split and speaker"
                )
            for row in rows:
                if row["split"] == "train":
                    of_speaker.setdefault(row["speaker"], []).append(index.parent / row["file"])
    if not of_speaker:
        raise ValueError(f"no row of {', '.join(map(str, indices))} has the split train: give recordings of training")
    choose = random.Random(0)
    files = [choose.choice(of_speaker[speaker]) for speaker in sorted(of_speaker)]
    choose.shuffle(files)
    return [load_audio(file, sample_rate)[: round(SECONDS * sample_rate)] for file in files[:SPEAKERS]]


if __name__ == "__main__":
    main()
