"""The figures of the bundled models: python -m vocos_onnx.evaluate.card --models models --clips DIR

Resynthesizes every speech clip with the exported models, the codec at each bandwidth, and prints four tables in
Markdown: PESQ-WB of each clip, the means of all metrics, the means of figures that those metrics miss (harmonicity, the
line at the frame rate, levels by band), and the level errors of probes. ``--tokens OUT`` also writes the tokens of the
clips named with ``--clip``.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

import numpy as np

from vocos_onnx import load_audio, save_tokens
from vocos_onnx.io.files import whole_file
from vocos_onnx.model.bundled import BUNDLED

from .metrics import alone, compare
from .probes import probe
from .systems import System, open_systems

CODEC, ENCODER, MEL = (f"{name}.onnx" for name in BUNDLED)
MEANS = {
    "pesq_wb": ("PESQ-WB", ".2f"),
    "stoi": ("STOI", ".3f"),
    "mel_distance": ("mel distance", ".3f"),
    "ovrl": ("DNSMOS overall", ".2f"),
    "sig": ("speech", ".2f"),
    "bak": ("background", ".2f"),
    "p808": ("DNSMOS P.808", ".2f"),
}
SOUND = {
    "harmonicity": ("harmonicity 0.1-1 kHz", ".2f"),
    "harmonicity_1k": ("1-2 kHz", ".2f"),
    "harmonicity_2k": ("2-4 kHz", ".2f"),
    "line": ("line at the frame rate, dB", ".1f"),
    "level_0k": ("level 0-1 kHz, dB", "+.1f"),
    "level_1k": ("1-4 kHz", "+.1f"),
    "level_4k": ("4-8 kHz", "+.1f"),
    "level_8k": ("8-12 kHz", "+.1f"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vocos_onnx.evaluate.card", description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help=f"folder with {CODEC}, {ENCODER}, perhaps {MEL}")
    parser.add_argument("--clips", type=Path, required=True, help="folder with index.csv and recordings of any rate")
    parser.add_argument("--tokens", type=Path, help="folder to write NAME.npz to, for each --clip")
    parser.add_argument("--clip", action="append", default=[], metavar="NAME.flac")
    args = parser.parse_args()
    if args.clip and args.tokens is None:
        parser.error("--clip needs --tokens, the folder to write to")
    systems = open_systems([args.models / CODEC], args.models / ENCODER)
    if (args.models / MEL).exists():
        systems += open_systems([args.models / MEL])
    with (args.clips / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    for name in args.clip:
        write_tokens(args.clips / name, rows[name], args.tokens, systems[0])
    print_figures([args.clips / name for name in sorted(rows) if name.startswith("speech_")], systems)


def write_tokens(clip: Path, row: dict[str, str], folder: Path, system: System) -> None:
    """Writes a clip's tokens at the highest bandwidth to a token file that also names the clip's source and licence."""
    encoder, rate = system.encoder, system.vocos.sample_rate
    assert encoder is not None
    content = io.BytesIO()
    save_tokens(content, encoder.encode(load_audio(clip, rate), rate, system.vocos.bandwidths[-1]), encoder)
    content.seek(0)
    source = f"{row['description']}; {row['attribution']}, {row['licence'].split(' (')[0]}"
    with np.load(content) as tokens, whole_file(folder / f"{clip.stem}.npz") as partial:
        np.savez_compressed(partial, source=np.array(source), **tokens)


def print_figures(clips: list[Path], systems: list[System]) -> None:
    """Prints PESQ-WB of each clip, one column per system, then the means of all metrics and the probes' levels."""
    names = [system.model if system.bandwidth is None else f"{system.bandwidth:g} kbps" for system in systems]
    figures = []  # by clip, then by system; the recording itself is first
    print_row("clip", names)
    print_row("---", ["---"] * len(names))
    for clip in clips:
        recordings = {rate: load_audio(clip, rate) for rate in {system.vocos.sample_rate for system in systems}}
        highest = max(recordings)
        scores = [alone(recordings[highest], highest)]
        for system in systems:
            rate = system.vocos.sample_rate
            frame_rate = rate / system.vocos.hop_length
            scores.append(compare(recordings[rate], system.copy(recordings[rate]), rate, frame_rate))
        figures.append(scores)
        print_row(clip.stem, [f"{score['pesq_wb']:.2f}" for score in scores[1:]])
    means = [
        {key: float(np.nanmean([score[key] for score in of_system])) for key in of_system[0]}
        for of_system in zip(*figures, strict=True)
    ]
    print_row(f"**mean of {len(clips)}**", [f"**{mean['pesq_wb']:.2f}**" for mean in means[1:]])
    for columns in (MEANS, SOUND):
        print_means(f"mean of {len(clips)}", columns, dict(zip(["recording", *names], means, strict=True)))
    rows = {}
    for name, system in zip(names, systems, strict=True):
        rate = system.vocos.sample_rate
        rows[name] = probe(system.copy, [load_audio(clip, rate) for clip in clips], rate)
    columns = {key: (f"{key}, dBFS" if key == "silence" else f"{key}, dB", "+.1f") for key in rows[names[0]]}
    print_means("level error", columns, rows)


def print_means(title: str, columns: dict[str, tuple[str, str]], rows: dict[str, dict[str, float]]) -> None:
    """Prints a table of figures, with a heading and a format for each; a dash stands for a missing figure."""
    print()
    print_row(title, [heading for heading, _ in columns.values()])
    print_row("---", ["---"] * len(columns))
    for name, figures in rows.items():
        print_row(name, [format(figures[key], form) if key in figures else "–" for key, (_, form) in columns.items()])


def print_row(first: str, cells: list[str]) -> None:
    print(f"| {first} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
