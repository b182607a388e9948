"""Random hostile input: python -m tests.fuzz.run [--cases 10000] [--seed 0] [--only "metadata"] [--case 17]

Every case must give the right result or a documented error; anything else, including a crash of the interpreter, is a
failure, and is printed with the target and the number that reproduce it. Cases run in separate processes with limits on
memory and time (``common.Target``). The service is skipped if starlette and uvicorn are not installed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from tests.fuzz import arrays, audio, checkpoint_reader, checkpoints, files, mistakes, models, server, streams
from tests.fuzz.common import Target

BATCH = 1000  # cases per process
TARGETS: dict[str, Target] = {
    **arrays.TARGETS,
    **models.TARGETS,
    **audio.TARGETS,
    **files.TARGETS,
    **checkpoint_reader.TARGETS,
    **checkpoints.TARGETS,
    **mistakes.TARGETS,
    **server.TARGETS,
    **streams.TARGETS,
}


def run_batch(target: str, first: int, last: int, seed: int, pipe: Connection) -> None:
    """Runs in a separate process; reports each case before it starts, and its outcome afterwards."""
    kind = TARGETS[target]
    resource.setrlimit(resource.RLIMIT_AS, (kind.memory, kind.memory))
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # silence the libraries
        os.dup2(null, stream)
    for case in range(first, last):
        pipe.send(("case", case))
        rng = np.random.default_rng((seed, zlib.crc32(target.encode()), case))
        with tempfile.TemporaryDirectory() as folder:
            try:
                kind.run(rng, Path(folder))
                outcome = "right"
            except kind.documented as error:
                outcome = "refused" if str(error).strip() else f"{type(error).__name__} without a message"
            except BaseException:
                outcome = traceback.format_exc(limit=-4)
            os.chdir("/")
        pipe.send(("end", outcome))
    pipe.send(("done", ""))


def fuzz(target: str, first: int, cases: int, seed: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    context = multiprocessing.get_context("spawn")
    limit = TARGETS[target].seconds
    case = first
    while case < cases:
        ours, theirs = context.Pipe(duplex=False)
        last = min(case + BATCH, cases)
        process = context.Process(target=run_batch, args=(target, case, last, seed, theirs))
        process.start()
        theirs.close()
        outcome = ""
        while True:
            try:
                if not ours.poll(limit):
                    outcome = f"no end after {limit:g} s"
                    break
                kind, value = ours.recv()
            except EOFError:
                process.join()
                outcome = f"the interpreter died: exit code {process.exitcode}"
                break
            if kind == "case":
                case = value
            elif kind == "end":
                if value not in ("right", "refused"):
                    print(f"FAILED {target} {case} (seed {seed}): {value}", flush=True)
                    value = "failed"
                outcomes[value] += 1
            else:
                break
        process.kill()
        process.join()
        if outcome:
            print(f"FAILED {target} {case} (seed {seed}): {outcome}", flush=True)
            outcomes["failed"] += 1
        case += 1
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(TARGETS))
    parser.add_argument("--case", type=int, help="this one alone, of the input that --only names")
    args = parser.parse_args()
    chosen = [args.only] if args.only else list(TARGETS)
    if checkpoints.MISSING:
        print(
            f"left out: checkpoints, which need {', '.join(checkpoints.MISSING)} (pip install 'vocos-onnx[export]')\n"
        )
    whole = sum(TARGETS[name].weight for name in chosen)
    failed = 0
    print("| input | cases | right | refused | failed | seconds |\n|---|---|---|---|---|---|")
    for name in chosen:
        begun = time.perf_counter()
        first, last = 0, round(args.cases * TARGETS[name].weight / whole)
        if args.case is not None:
            first, last = args.case, args.case + 1
        outcomes = fuzz(name, first, last, args.seed)
        failed += outcomes["failed"]
        counts = [outcomes.total(), outcomes["right"], outcomes["refused"], outcomes["failed"]]
        print(f"| {name} | {' | '.join(map(str, counts))} | {time.perf_counter() - begun:.0f} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
