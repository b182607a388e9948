"""Run all benchmarks: python -m benchmarks.run --clips CLIPS writes results.json, RESULTS.md and RESULTS.png.

They compare, on the official geometries with random weights: upstream Vocos in torch (eager and compiled, each also
under bfloat16 autocast; dynamic int8), OpenVINO (its default precision, float32, and int8 by NNCF), streaming-vocos,
0.4.0, and this version. Each section is a file in benchmarks/sections; --only measures some of them again, and leaves
the others in results.json unchanged. For the timing see harness.py.

    pip install torch && pip install -e ".[bench,cpu]"
    pip install --no-deps torchaudio vocos encodec streaming-vocos

CLIPS is a folder of recordings speech_*, to measure what int8 costs. A checkout with its history is needed for 0.4.0.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import render
from benchmarks.bench import Bench, Settings
from benchmarks.harness import processor, versions
from benchmarks.results import Machine, Result, load, save
from benchmarks.sections import busy, decode, encoder, lists, long, products, quality, realtime, start, streams
from benchmarks.versions import ROOT

SECTIONS = {
    "decode": decode.run,
    "lists": lists.run,
    "streams": streams.run,
    "realtime": realtime.run,
    "busy": busy.run,
    "encoder": encoder.run,
    "products": products.run,
    "quality": quality.run,
    "start": start.run,
    "long": long.run,
}
PACKAGES = (
    "vocos", "encodec", "torch", "openvino", "nncf", "streaming-vocos", "onnxruntime", "numpy", "scipy", "vocos-onnx",
)  # fmt: skip


def machine(threads: int) -> Machine:
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "vocos_onnx", "export"], capture_output=True).stdout
    commit += " and changes" if changed else ""
    return Machine(processor(), os.cpu_count() or 1, threads, commit, versions(*PACKAGES))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=Path, help="folder of recordings speech_*; without, int8 is compared on none")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--threads", type=int, default=2, help="threads of every contender")
    parser.add_argument("--rounds", type=int, default=10, help="rounds for each length; half above 20 s")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two turns")
    parser.add_argument("--decodes", type=int, default=2000, help="of random lengths, for the memory")
    parser.add_argument("--output", type=Path, help="folder to write to; by default benchmarks/")
    parser.add_argument("--quick", action="store_true", help="two rounds of short input, to see that everything starts")
    parser.add_argument("--render", action="store_true", help="measure nothing, and write RESULTS.md of results.json")
    args = parser.parse_args()
    output = args.output or render.FOLDER
    if args.quick and not args.output:
        parser.error("--quick needs --output: its figures mean nothing")
    if args.clips and not any(args.clips.glob("speech_*")):
        parser.error(f"no recordings speech_* in {args.clips}")
    if args.render:
        return render.render(output)
    rounds, decodes = (2, 100) if args.quick else (args.rounds, args.decodes)
    settings = Settings(args.threads, rounds, args.pause, decodes, args.clips, args.quick)
    where = machine(args.threads)
    output.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(settings, Path(name))
        for section in args.only or SECTIONS:
            begun = time.perf_counter()
            print(f"{section}, load average {os.getloadavg()[0]:.1f}", flush=True)
            measured = Result(where, SECTIONS[section](bench))
            save(load(output / "results.json") | {section: measured}, output / "results.json", SECTIONS)
            print(f"{section}: {time.perf_counter() - begun:.0f} s\n", flush=True)
    render.render(output)


if __name__ == "__main__":
    main()
