"""From the start of the interpreter to a second of audio, and how much memory each kind of use takes."""

from __future__ import annotations

import importlib.metadata
import re
import statistics
import sys
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.contenders import AGAINST, EAGER, VERSIONS
from benchmarks.harness import Times
from benchmarks.results import Row, Section, Spread, Table, rounded
from benchmarks.watch import watched

SHORT, LONG, STREAMED = "1 s", "60 s", "10 s streamed"
ALL = f"{SHORT} + {LONG} + {STREAMED}"
USES = {SHORT: (SHORT,), LONG: (LONG,), STREAMED: (STREAMED,), ALL: (SHORT, LONG, STREAMED)}
UPSTREAM_NEEDS = ("torch", "torchaudio", "vocos", "encodec", "einops", "huggingface-hub", "pyyaml", "scipy", "numpy")
OURS_CODE = f"""
import sys
import numpy as np
from vocos_onnx import VocosONNX
file, threads, *uses = sys.argv[1:]
vocos = VocosONNX(file, threads=int(threads))
rng = np.random.default_rng(0)
for use in uses:
    if use == {STREAMED!r}:
        for audio in vocos.decode_stream(rng.integers(1024, size=(8, 8)) for _ in range(94)):
            pass
    else:
        vocos.decode(rng.integers(1024, size=(8, 75 if use == {SHORT!r} else 4500)))
"""
# vocos 0.1.0 asks the hub for EnCodec's weights when it is built; here its architecture alone will do
TORCH_CODE = f"""
import sys
import scipy.signal; scipy.signal.cosine = scipy.signal.windows.cosine
import numpy as np, torch, yaml
from vocos import Vocos
import vocos.feature_extractors as f
folder, threads, *uses = sys.argv[1:]
torch.set_num_threads(int(threads))
import encodec; make = encodec.EncodecModel.encodec_model_24khz
f.EncodecModel.encodec_model_24khz = staticmethod(lambda pretrained=False, **k: make(pretrained=False))
model = Vocos.from_hparams(folder + "/config.yaml")
model.load_state_dict(torch.load(folder + "/pytorch_model.bin"), strict=False)
model.eval()
rng = np.random.default_rng(0)
for use in uses:
    tokens = torch.from_numpy(rng.integers(1024, size=(8, 75 if use == {SHORT!r} else 4500)))
    with torch.inference_mode():
        model.decode(model.codes_to_features(tokens), bandwidth_id=torch.tensor([2]))
"""


def run(bench: Bench) -> Section:
    rounds = 2 if bench.settings.quick else 9
    names = (EAGER, *VERSIONS)
    for name in names:
        _watch(bench, name, SHORT)  # into the page cache
    short: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for i in range(rounds):
        for j in range(len(names)):
            name = names[(i + j) % len(names)]
            short[name].append(_watch(bench, name, SHORT))
    times = {name: Times(1, [seconds for seconds, _ in short[name]], 0) for name in names}
    rows: dict[str, Row] = {}
    memory: dict[str, Row] = {}
    for name in names:
        rows[name] = {
            "seconds": Spread.of(times[name].seconds),
            "ratio": Spread.of(times[name].ratios(times[EAGER])),
        }
        if name in AGAINST:
            rows[name]["to 0.4.0"] = Spread.of(times[name].ratios(times[AGAINST[name]]))
        peaks = {SHORT: [peak for _, peak in short[name]]}
        for use in (LONG,) if name == EAGER else (LONG, STREAMED, ALL):
            peaks[use] = [_watch(bench, name, use)[1] for _ in range(2 if bench.settings.quick else 3)]
        memory[name] = {f"{use}, MB": Spread.of(values) for use, values in peaks.items()}
        if name != EAGER:
            memory[name]["model file, MB"] = rounded(bench.model("encodec", name).stat().st_size / 2**20)
        print(f"- {name}: {statistics.median(times[name].seconds):.3f} s, {memory[name]}", flush=True)
    ours, upstream = (
        rounded(sum(size.values()) / 1e6) for size in (installed("vocos-onnx"), installed(*UPSTREAM_NEEDS))
    )
    tables = {
        "start": Table("from the start of the interpreter to 1 s of audio", rows, rounds),
        "memory": Table("peak memory, in MB of 2**20 bytes", memory),
        "installed": Table(
            "installed, with all that it needs",
            {
                "vocos-onnx[cpu], with the bundled models": {"MB": ours},
                "upstream, with the CPU build of torch": {"MB": upstream},
            },
        ),
    }
    text = (
        "encodec geometry. Each row is a process of its own, whose packages have compiled bytecode, as installed ones "
        "have. Memory: of a process that decodes only 1 s, only 60 s, only 10 s as a stream, and all of these; the "
        f"first column is of {rounds} processes, the others of 3. The size of upstream is without torchaudio's "
        "libraries, of which there is no CPU build."
    )
    return Section("Cold start, memory and size", text, tables)


def _watch(bench: Bench, name: str, use: str) -> tuple[float, float]:
    given = bench.models("encodec") if name == EAGER else bench.model("encodec", name)
    code = TORCH_CODE if name == EAGER else OURS_CODE
    command = [sys.executable, "-c", code, str(given), str(bench.settings.threads), *USES[use]]
    return watched(command, bench.version(name).alone, bench.folder)


def installed(*names: str) -> dict[str, int]:
    """Bytes of packages and of what they need, by name; without compiled bytecode."""
    root = Path(__file__).resolve().parents[2]
    sizes: dict[str, int] = {}
    todo = [*names, *(["onnxruntime"] if "vocos-onnx" in names else [])]
    while todo:
        name = re.split(r"[^A-Za-z0-9._-]", todo.pop())[0].lower().replace("_", "-")
        if name in sizes:
            continue
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system or Python
        files = [Path(str(file.locate())) for file in found.files or ()]
        if name == "vocos-onnx":  # installed as a link to the checkout
            files = [file for part in ("vocos_onnx", "export", "train", "models") for file in (root / part).rglob("*")]
        sizes[name] = sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".pyc")
        todo += [line for line in found.requires or () if "extra ==" not in line]
    return sizes
