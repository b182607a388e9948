"""Train the codec in the box: python -m vocos_onnx_train --data DIR --out DIR

Reconstruction losses only, on the CPU, in bfloat16 where the processor has it. Writes to the output folder:
state.pt (to go on from, at every ``--save-every`` steps), log.csv (figures on the valid split), and at the end
checkpoint/ in the layout of the official models (config.yaml, pytorch_model.bin) with encoder.safetensors beside it.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path

import numpy as np
import torch

from .checkpoint import save, write_checkpoint
from .codec import BANDWIDTHS, CODEBOOKS_OF, SAMPLE_RATE, Codec
from .data import Clips
from .evaluate import pesq_wb
from .losses import ReconstructionLoss

CROP_FRAMES, BATCH, WARMUP, REPORT_EVERY = 64, 16, 200, 100
MEL_WEIGHT, STFT_WEIGHT = 3.0, 3.0
BANDWIDTH_PROBABILITY = (0.4, 0.2, 0.2, 0.2)  # the lowest is the hardest
VALID_CLIPS = slice(None, None, 3)  # every third clip of the valid split, 12 in all


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine to zero."""
    return peak * min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * min(1, step / steps))) / 2


def train(data: Path, out: Path, steps: int, peak: float, save_every: int, seed: int, bfloat16: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    codec = Codec()
    loss_of = ReconstructionLoss(SAMPLE_RATE)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=1e-2)
    clips, valid = Clips(data, "train", SAMPLE_RATE), Clips(data, "valid", SAMPLE_RATE)
    step, seconds = 0, 0.0
    if (out / "state.pt").exists():
        state = torch.load(out / "state.pt", weights_only=True)
        codec.load_state_dict(state["codec"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds = state["step"], state["seconds"]
        print(f"going on from step {step}", flush=True)
    sums, began = torch.zeros(3), time.perf_counter()
    while step < steps:
        # seeded by step, so that going on from state.pt is the same as not having stopped
        torch.manual_seed(seed * 1_000_003 + step)
        rng = np.random.default_rng((seed, step))
        audio = torch.from_numpy(clips.batch(rng, BATCH, CROP_FRAMES * 320))
        bandwidth_id = torch.from_numpy(rng.choice(len(BANDWIDTHS), BATCH, p=BANDWIDTH_PROBABILITY))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            estimate, commitment = codec(audio, bandwidth_id)
        mel, stft = loss_of(estimate, audio)
        loss = MEL_WEIGHT * mel + STFT_WEIGHT * stft + commitment
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss is {loss.item()} at step {step}; state.pt holds the last good state")
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 10.0)
        optimizer.step()
        step += 1
        sums += torch.stack([mel, stft, commitment]).detach()
        if step % REPORT_EVERY == 0:
            mel_, stft_, commitment_ = (sums / REPORT_EVERY).tolist()
            sums.zero_()
            took = time.perf_counter() - began
            seconds, began = seconds + took, time.perf_counter()
            rate = REPORT_EVERY / took
            print(
                f"step {step}: mel {mel_:.4f} stft {stft_:.4f} commitment {commitment_:.4f}, {rate:.2f} steps/s",
                flush=True,
            )
        if step % save_every == 0 or step == steps:
            save(
                {"codec": codec.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds},
                out / "state.pt",
            )
            figures = validate(codec, valid)
            with (out / "log.csv").open("a", newline="") as file:
                csv.writer(file).writerow([step, round(seconds), *(f"{f:.3f}" for f in figures)])
            print(f"step {step}: PESQ-WB {' / '.join(f'{f:.2f}' for f in figures)}", flush=True)
            began = time.perf_counter()
    write_checkpoint(codec, out / "checkpoint")
    print(f"wrote {out / 'checkpoint'}")


def validate(codec: Codec, valid: Clips) -> list[float]:
    """Mean PESQ-WB of the valid clips at each bandwidth."""
    codec.eval()
    scores = []
    for audio_int in valid.audio[VALID_CLIPS]:
        audio = audio_int.astype(np.float32) / 32768
        codes = codec.encode(torch.from_numpy(audio)[None])
        decoded = [codec.decode(codes[:k])[0, : len(audio)].numpy() for k in CODEBOOKS_OF]
        scores.append([pesq_wb(audio, d, SAMPLE_RATE) for d in decoded])
    codec.train()
    return [float(f) for f in np.mean(scores, axis=0)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vocos_onnx_train", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv and 24 kHz mono audio")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; training goes on from a state.pt there"
    )
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    parser.add_argument("--save-every", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--float32", action="store_true", help="do not use bfloat16")
    args = parser.parse_args()
    train(args.data, args.out, args.steps, args.learning_rate, args.save_every, args.seed, not args.float32)


if __name__ == "__main__":
    main()
