"""Everything side by side: python -m benchmarks.run --clips CLIPS writes benchmarks/RESULTS.md and RESULTS.png.

Tokens or mels to audio of the two official geometries with random weights: upstream Vocos in torch (eager, compiled,
dynamic int8), OpenVINO (float32, and int8 of NNCF), streaming-vocos, and this package, in float32, in int8, streaming
and with lists; then cold start, memory and size, and the matrix products' share. Each contender must give upstream's
audio first, within 1e-3 of its peak in float32; in int8 its SNR is said. How it is timed: harness.py.

    pip install torch && pip install ".[bench]" && pip install --no-deps torchaudio vocos encodec streaming-vocos
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Contender, Decode, Timings, difference, machine, measure, serve, timings

HERE = Path(__file__).resolve().parent
GEOMETRIES = {"encodec": 75, "mel-center": 93.75}  # frames per second
BANDWIDTH_ID, CODEBOOKS, CHUNK = 2, 8, 8
TOLERANCE = 1e-3  # of the peak
EAGER, COMPILED, DYNAMIC = "torch eager", "torch.compile", "torch dynamic int8"
OPENVINO, OPENVINO_INT8 = "OpenVINO float32", "OpenVINO int8 (NNCF)"
STREAMING_VOCOS = f"streaming-vocos, chunks of {CHUNK}"
OURS, INT8, FP16 = "vocos-onnx float32", "vocos-onnx int8", "vocos-onnx float16"
STREAM, STREAM_INT8 = f"vocos-onnx stream, chunks of {CHUNK}", f"vocos-onnx int8 stream, chunks of {CHUNK}"
RAGGED, RAGGED_INT8 = "vocos-onnx, list", "vocos-onnx int8, list"
CONTENDERS = (
    EAGER, COMPILED, DYNAMIC, OPENVINO, OPENVINO_INT8, OURS, INT8, STREAMING_VOCOS, STREAM, STREAM_INT8, RAGGED,
    RAGGED_INT8,
)  # fmt: skip
APPROXIMATE = (DYNAMIC, OPENVINO_INT8, INT8, STREAM_INT8, RAGGED_INT8)
PACKAGES = (
    "vocos", "torch", "openvino", "nncf", "streaming-vocos", "onnxruntime", "numpy", "vocos-onnx",
)  # fmt: skip
Found = dict[tuple[str, float], Timings]  # by geometry and seconds of audio
UPSTREAM_NEEDS = ("torch", "torchaudio", "vocos", "encodec", "einops", "huggingface-hub", "pyyaml", "scipy", "numpy")


def make_input(geometry: str) -> Callable[[float], np.ndarray]:
    def make(seconds: float) -> np.ndarray:
        rng, frames = np.random.default_rng(0), round(seconds * GEOMETRIES[geometry])
        if geometry == "encodec":
            return rng.integers(1024, size=(CODEBOOKS, frames))
        return rng.uniform(-8, 2, (100, frames)).astype(np.float32)

    return make


def load(name: str, geometry: str, folder: Path, threads: int) -> tuple[Decode, Callable[[], str]]:
    if name.startswith("vocos-onnx"):
        return load_ours(name, folder, threads)
    if name in (OPENVINO, OPENVINO_INT8):
        return load_openvino(name, geometry, folder, threads)
    return load_torch(name, geometry, folder, threads)


def load_torch(name: str, geometry: str, folder: Path, threads: int) -> tuple[Decode, Callable[[], str]]:
    import torch

    from tests.parity.upstream import CONFIGS, build

    torch.set_num_threads(threads)
    model: Any = build(CONFIGS[geometry])
    model.load_state_dict(torch.load(folder / "pytorch_model.bin"), strict=False)  # it has no encodec weights
    bandwidth_id = torch.tensor([BANDWIDTH_ID])
    if name == DYNAMIC:
        for part in ("backbone", "head"):
            quantised = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
                getattr(model, part), {torch.nn.Linear}, dtype=torch.qint8
            )
            setattr(model, part, quantised)

    def network(features: torch.Tensor) -> torch.Tensor:
        """What Vocos.decode does, without its decorator."""
        return model.head(model.backbone(features, bandwidth_id=bandwidth_id))

    def features_of(given: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(given)
        return model.codes_to_features(tensor) if geometry == "encodec" else tensor[None]

    if name == STREAMING_VOCOS:
        import vocos
        from streaming_vocos import StreamingVocos

        vocos.Vocos.from_pretrained = lambda repo: model  # what it would load from the hub
        kind, hop = geometry.split("-")[0], 320 if geometry == "encodec" else 256
        # its own padding, 24 or 30 frames to either side, which it computes again in each chunk
        peer = StreamingVocos(kind, bandwidth_id=BANDWIDTH_ID, chunk_size_ms=CHUNK * hop / 24 + 0.01)

        @torch.inference_mode()
        def stream(given: np.ndarray) -> np.ndarray:
            features = features_of(given)
            parts = [
                audio for i in range(features.shape[2]) for audio in peer.streaming_decode(features[:, :, i : i + 1])
            ]
            return torch.cat([*parts, peer.decode_caches()], dim=1)[0].numpy()

        return stream, lambda: f"{peer.chunk_size} frames and {peer.padding} on both sides, computed again"

    run = torch.compile(network) if name == COMPILED else network

    @torch.inference_mode()
    def decode(given: np.ndarray) -> np.ndarray:
        return run(features_of(given)).numpy()[0]

    def note() -> str:
        what = "codes_to_features, backbone, head (with its inverse STFT)"
        if name == COMPILED:
            stats = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            return f"{what}; backbone and head by inductor, {stats} graphs over all lengths"
        return f"{what}; torch.ao quantize_dynamic of Linear" if name == DYNAMIC else f"{what}, inference_mode"

    return decode, note


def load_openvino(name: str, geometry: str, folder: Path, threads: int) -> tuple[Decode, Callable[[], str]]:
    import openvino as ov
    import torch

    from vocos_onnx import VocosONNX
    from vocos_onnx.inverse import Inverse
    from vocos_onnx_export.checkpoint import build, load

    ours = VocosONNX(folder / "model.onnx", threads=1, providers=["CPUExecutionProvider"])
    vocos = build(load(str(folder)))[0]
    ids = () if geometry != "encodec" else (torch.tensor(BANDWIDTH_ID),)
    channels = ours.config.feature_channels
    # the plain network, converted from torch: ours can stream, which costs it something
    graph = ov.convert_model(vocos, example_input=(torch.zeros(1, channels, 50), *ids))

    def inputs(given: np.ndarray) -> list[np.ndarray]:
        features = ours.codes_to_features(given) if geometry == "encodec" else given[None]
        return [features, *(np.array(i) for i in ids)]

    if name == OPENVINO_INT8:
        import nncf

        items = nncf.Dataset([inputs(make_input(geometry)(seconds)) for seconds in (1, 2, 3)])
        # MIXED: weights symmetric, activations asymmetric
        graph = nncf.quantize(graph, items, preset=nncf.QuantizationPreset.MIXED, subset_size=3)
    # by default OpenVINO computes in bfloat16 where the processor has it
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(graph, "CPU", settings)
    request = compiled.create_infer_request()
    inverse = Inverse(ours.config)

    def decode(given: np.ndarray) -> np.ndarray:
        spectrum = request.infer(inputs(given), share_inputs=True, share_outputs=True)[0]
        overlap_add = inverse.overlap_add()
        blocks = [overlap_add.push(spectrum.view(np.complex64)[..., 0]), overlap_add.finish()]
        return np.concatenate(blocks, axis=1)[0]

    return decode, lambda: "the plain network from torch; look-up and inverse STFT of vocos_onnx"


def load_ours(name: str, folder: Path, threads: int) -> tuple[Decode, Callable[[], str]]:
    from vocos_onnx import VocosONNX

    file = "int8.onnx" if "int8" in name else "model.onnx"
    model = VocosONNX(folder / file, threads=threads, providers=["CPUExecutionProvider"])
    index = BANDWIDTH_ID if model.config.num_bandwidth_ids else None

    def stream(given: np.ndarray) -> np.ndarray:
        chunks = (given[:, i : i + CHUNK] for i in range(0, given.shape[1], CHUNK))
        return np.concatenate(list(model.decode_stream(chunks, index)))

    def ragged(given: np.ndarray) -> np.ndarray:
        cuts = np.sort(np.random.default_rng(1).integers(0, given.shape[1], given.shape[1] // 150))
        pieces = [piece for piece in np.split(given, cuts, axis=1) if piece.shape[1]]
        return np.concatenate(model.decode(pieces, index))

    if "stream" in name:
        return stream, lambda: "exact: carries the convolutions' state"
    if "list" in name:
        return ragged, lambda: "random pieces of 2 s on average, each decoded as if alone"
    return lambda given: model.decode(given, index), lambda: "VocosONNX.decode"


def start(geometry: str, folder: Path, threads: int, lengths: list[float]) -> tuple[list[Contender], list[str]]:
    """Load and warm up every contender, and compare its audio with upstream's at every length."""
    contenders, notes = [], []
    expected: dict[float, np.ndarray] = {}
    for name in CONTENDERS:
        try:
            contender = Contender(name, "benchmarks.run", "--worker", name, geometry, folder, "--threads", threads)
            audio = {}
            for seconds in lengths:
                contender(seconds, 0, folder / "audio.npy")
                audio[seconds] = np.load(folder / "audio.npy")
        except RuntimeError as error:
            notes.append(f"- {name}: absent ({error})")
            print(notes[-1], flush=True)
            continue
        expected = expected or audio
        compared = ""
        if name not in (RAGGED, RAGGED_INT8, STREAMING_VOCOS):  # which have edges of their own
            both = [difference(audio[seconds], expected[seconds]) for seconds in lengths]
            peak, ratio = max(peak for peak, _ in both), min(snr for _, snr in both)
            compared = f"; SNR {ratio:.0f} dB" if name in APPROXIMATE else f"; within {peak:.0e} of the peak"
            if name not in APPROXIMATE and not peak <= TOLERANCE:
                raise SystemExit(f"{name} differs from upstream by {peak:.1e} of the peak")
        contenders.append(contender)
        notes.append(f"- {name}: {contender.note}{'' if name == EAGER else compared}")
        print(notes[-1], flush=True)
    return contenders, notes


def decode_section(args: argparse.Namespace, folders: dict[str, Path]) -> tuple[list[str], Found]:
    lines, found = [], {}
    for geometry, folder in folders.items():
        contenders, notes = start(geometry, folder, args.threads, args.seconds)
        lines += [f"## {'vocos-encodec-24khz, 6 kbps' if geometry == 'encodec' else 'vocos-mel-24khz'}", "", *notes, ""]
        try:
            for seconds in args.seconds:
                rounds = args.rounds if seconds <= 20 else max(2, args.rounds // 2)
                calls = 8 if seconds < 5 else 4 if seconds <= 20 else 1
                measured = timings(measure(contenders, seconds, rounds, calls, args.pause), EAGER)
                found[geometry, seconds] = measured
                lines += [
                    f"{seconds:g} s of audio, {rounds} rounds of {calls}:",
                    "",
                    "| | median ms | ratio to torch eager | least - most | x real time | cores |",
                    "|---|---|---|---|---|---|",
                ]
                for name, (values, cores, ratios) in measured.items():
                    median = statistics.median(values)
                    lines.append(
                        f"| {name} | {1e3 * median:.1f} | **{statistics.median(ratios):.2f}** | {min(ratios):.2f} - "
                        f"{max(ratios):.2f} | {seconds / median:.0f} | {cores:.1f} |"
                    )
                lines.append("")
        finally:
            for contender in contenders:
                contender.close()
    return lines, found


COLD = {
    EAGER: """
import scipy.signal; scipy.signal.cosine = scipy.signal.windows.cosine
import numpy as np, torch, yaml
from vocos import Vocos
torch.set_num_threads({threads})
import vocos.feature_extractors as f
model = Vocos.from_hparams({folder!r} + "/config.yaml")
model.load_state_dict(torch.load({folder!r} + "/pytorch_model.bin"), strict=False)
model.eval()
tokens = torch.from_numpy(np.random.default_rng(0).integers(1024, size=(8, {frames})))
with torch.inference_mode():
    model.decode(model.codes_to_features(tokens), bandwidth_id=torch.tensor([2]))
""",
    OURS: """
import numpy as np
from vocos_onnx import VocosONNX
tokens = np.random.default_rng(0).integers(1024, size=(8, {frames}))
VocosONNX({folder!r} + "/model.onnx", threads={threads}).decode(tokens)
""",
}
COLD[INT8] = COLD[OURS].replace("model.onnx", "int8.onnx")
# vocos 0.1.0 asks the hub for EnCodec's weights when it is built; here its architecture alone will do
COLD[EAGER] = COLD[EAGER].replace(
    "model = ",
    "import encodec; make = encodec.EncodecModel.encodec_model_24khz\n"
    "f.EncodecModel.encodec_model_24khz = staticmethod(lambda pretrained=False, **k: make(pretrained=False))\nmodel = ",
)


def run_and_watch(command: list[str], cwd: Path | None = None) -> tuple[float, float]:
    """Seconds and peak memory (MB) of a command."""
    watcher = (
        "import resource, subprocess, sys, time; a = time.perf_counter(); subprocess.run(sys.argv[1:], check=True, "
        "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); "
        "print(time.perf_counter() - a, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", watcher, *command], capture_output=True, text=True, check=True, cwd=cwd
    )
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak


def start_section(args: argparse.Namespace, folder: Path) -> list[str]:
    lines = [
        "## Cold start",
        "",
        "From the start of the interpreter to a second of audio, and ten minutes of tokens in one call:",
        "",
        "| | 1 s: seconds | least - most | peak MB | 10 min: peak MB |",
        "|---|---|---|---|---|",
    ]

    def script(code: str, frames: int) -> list[str]:
        return [sys.executable, "-c", code.format(folder=str(folder), threads=args.threads, frames=frames)]

    scripts = {name: partial(script, code) for name, code in COLD.items()}
    for make in scripts.values():
        run_and_watch(make(75))  # into the page cache
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in scripts}
    for _ in range(5):
        for name, make in scripts.items():
            figures[name].append(run_and_watch(make(75)))
    for name, make in scripts.items():
        seconds, peaks = zip(*figures[name], strict=True)
        _, long_peak = run_and_watch(make(45_000))
        lines.append(
            f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f} - {max(seconds):.2f} | "
            f"{statistics.median(peaks):.0f} | {long_peak:.0f} |"
        )
    ours, upstream = (sum(size.values()) / 1e6 for size in (installed("vocos-onnx"), installed(*UPSTREAM_NEEDS)))
    lines += [
        "",
        f"Installed, with all that it needs: vocos-onnx[cpu] {ours:.0f} MB, bundled models included; upstream with "
        f"the CPU build of torch {upstream:.0f} MB (torchaudio without its libraries, of which there is no CPU build).",
        "",
    ]
    return lines


def installed(*names: str) -> dict[str, int]:
    """Bytes of packages and of what they need, by name."""
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
        sizes[name] = sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".pyc")
        if name == "vocos-onnx":  # installed as a link to the checkout
            parts = [HERE.parent / part for part in ("vocos_onnx", "export", "train", "models")]
            files = [file for part in parts for file in part.rglob("*")]
            sizes[name] = sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".pyc")
        todo += [line for line in found.requires or () if "extra ==" not in line]
    return sizes


def long_section(args: argparse.Namespace, folder: Path) -> list[str]:
    """The command line on a minute and on an hour, and ten thousand decodes."""
    lines = [
        "## Long input, and many decodes",
        "",
        "| command | 1 min: peak MB | 1 h: peak MB | ratio | 1 h: seconds |",
        "|---|---|---|---|---|",
    ]
    rng = np.random.default_rng(0)
    command = [sys.executable, "-m", "vocos_onnx.cli"]
    options = ["--threads", str(args.threads), "--force"]
    for minutes in (1, 60):
        np.save(folder / f"{minutes}.npy", rng.integers(1024, size=(8, minutes * 4500)).astype(np.int16))
        decode = [*command, "decode", f"{minutes}.npy", f"{minutes}.wav", "--model", "model.onnx", *options]
        resynth = [*command, "resynth", f"{minutes}.wav", "copy.wav", *options]
        mels = [*resynth, "--model", "vocos-mel-24khz-small"]
        rows = {"decode, official geometry": decode, "resynth, bundled codec": resynth, "resynth, mels": mels}
        measured = {name: run_and_watch(row, folder) for name, row in rows.items()}
        if minutes == 1:
            short = measured
    for name, (seconds, peak) in measured.items():
        before = short[name][1]
        lines.append(f"| {name} | {before:.0f} | {peak:.0f} | {peak / before:.2f} | {seconds:.0f} |")
    code = (
        "import sys, numpy as np\nfrom vocos_onnx import VocosONNX\n"
        "peak = lambda: next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmHWM')) / 1024\n"
        f"vocos, rng = VocosONNX(sys.argv[1], threads={args.threads}), np.random.default_rng(0)\n"
        f"for i in range({args.decodes}):\n"
        "    vocos.decode(rng.integers(1024, size=(8, rng.integers(1, 2001))))\n"
        "    if i == 99: first = peak()\n"
        "print(first, peak())"
    )
    lines += ["", f"{args.decodes} decodes of random lengths of 1 to 2,000 frames through one object, peak memory:", ""]
    for name, file in (
        ("bundled codec", "vocos-codec-24khz"),
        ("official geometry, int8", str(folder / "int8.onnx")),
    ):
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
        first, last = map(float, done.stdout.split())
        lines.append(
            f"- {name}: {first:.0f} MB after 100, {last:.0f} MB after all ({last / first:.2f} times; "
            f"{time.perf_counter() - begun:.0f} s)"
        )
    return [*lines, ""]


def peak_section(args: argparse.Namespace, found: Found) -> list[str]:
    """The matrix products alone, as fast as onnxruntime makes them, and their share of the whole."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    rng, rows = np.random.default_rng(0), 750

    def timed(size: tuple[int, int], int8: bool, times: int) -> float:
        """Seconds of one product (rows, size[0]) x size: the best of many."""
        inner, columns = size
        weights = rng.standard_normal((inner, columns)).astype(np.float32)
        if int8:
            tensors = {
                "w": np.round(weights * 16).clip(-64, 64).astype(np.int8), "a": np.float32(1), "za": np.uint8(128),
                "b": np.ones(columns, np.float32), "zb": np.zeros(columns, np.int8),
            }  # fmt: skip
            node = ("MatMulIntegerToFloat", ["x", "w", "a", "b", "za", "zb"], "com.microsoft")
            given, kind = rng.integers(0, 256, (rows, inner)).astype(np.uint8), TensorProto.UINT8
        else:
            tensors, node = {"w": weights}, ("MatMul", ["x", "w"], "")
            given, kind = rng.standard_normal((rows, inner)).astype(np.float32), TensorProto.FLOAT
        nodes = [helper.make_node(node[0], node[1], [f"y{i}"], domain=node[2]) for i in range(times)]
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", kind, [None, inner])],
            [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [None, columns]) for i in range(times)],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()],
        )  # fmt: skip
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)], ir_version=10
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = args.threads, 3
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        seconds = []
        for _ in range(30):
            begun = time.perf_counter()
            session.run(None, {"x": given})
            seconds.append(time.perf_counter() - begun)
        return min(seconds) / times

    assert onnx
    products = {(384, 1152): 8, (1152, 384): 8, (384, 1282): 1}
    flops = sum(2 * rows * a * b * n for (a, b), n in products.items())
    lines = [
        "## The matrix products",
        "",
        "10 s of the encodec geometry, 750 frames; the rest is what is not a product:",
        "",
    ]
    lines += ["| | products alone, ms | G operations/s | whole path, ms | share |", "|---|---|---|---|---|"]
    for name, int8 in ((OURS, False), (INT8, True)):
        alone = sum(timed(size, int8, 8) * n for size, n in products.items())
        whole = statistics.median(found["encodec", 10][name][0])
        speed, share = flops / alone / 1e9, 100 * alone / whole
        lines.append(f"| {name} | {1e3 * alone:.1f} | {speed:.0f} | {1e3 * whole:.1f} | {share:.0f} % |")
    square = rng.standard_normal((2, 2048, 2048)).astype(np.float32)
    peak = 2 * 2048**3 / min(_seconds(lambda: square[0] @ square[1]) for _ in range(10))
    eager = statistics.median(found["encodec", 10][EAGER][0])
    lines += [
        "",
        f"numpy's sgemm of 2048 x 2048 makes {peak / 1e9:.0f} GFLOP/s. At that the products in float32 take "
        f"{1e3 * flops / peak:.1f} ms, whoever makes them; torch eager takes {1e3 * eager:.1f} ms in all, and could be "
        f"beaten {eager * peak / flops:.2f} times if nothing else took any time.",
        "",
    ]
    return lines


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def stream_section(args: argparse.Namespace, folder: Path, found: Found) -> list[str]:
    from vocos_onnx import VocosONNX

    lines = [
        "## Streaming",
        "",
        f"Chunks of {CHUNK} frames (107 ms), encodec geometry. The cost is that of a second of audio, over the same "
        "model's in one piece of 10 s:",
        "",
        "| | a chunk, ms | cost | first chunk of a new stream, ms |",
        "|---|---|---|---|",
    ]
    tokens = make_input("encodec")(10)
    for name, whole, file in ((STREAM, OURS, "model.onnx"), (STREAM_INT8, INT8, "int8.onnx")):
        vocos = VocosONNX(folder / file, threads=args.threads, providers=["CPUExecutionProvider"])
        pushes: list[float] = []
        first: list[float] = []
        for _ in range(10):
            stream = vocos.stream()
            for i in range(0, tokens.shape[1] - CHUNK, CHUNK):
                took = _seconds(lambda: stream.push(tokens[:, i : i + CHUNK]))  # noqa: B023
                (pushes if i else first).append(took)
        cost = statistics.median(found["encodec", 10][name][0]) / statistics.median(found["encodec", 10][whole][0])
        chunk, opening = (1e3 * statistics.median(times) for times in (pushes, first))
        lines.append(f"| {name} | {chunk:.2f} | {cost:.2f} | {opening:.2f} |")
    return [*lines, ""]


def quality_section(args: argparse.Namespace, folder: Path) -> list[str]:
    """What int8 and float16 cost on the bundled models: against float32, and against recordings."""
    from vocos_onnx import EncodecONNX, VocosONNX, load_audio
    from vocos_onnx.evaluate.metrics import pesq_wb
    from vocos_onnx.model.bundled import CODEC, MEL
    from vocos_onnx_export import quantize

    files = sorted(args.clips.glob("speech_*")) if args.clips else []
    encoder = EncodecONNX(threads=args.threads)
    lines = [
        "## int8 and half precision",
        "",
        "The bundled models. SNR and PESQ-WB against float32 as the file carries them, on the bundled speech; "
        f"the loss of PESQ-WB against {len(files)} recordings, three of which are that speech:",
        "",
        "| | MB | SNR | PESQ-WB to float32 | float32's PESQ-WB | loss, mean | loss, worst clip |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in (CODEC, MEL):
        original = VocosONNX(name)
        for precision in ("int8", "float16"):
            path = folder / f"{name}-{precision}.onnx"
            quality = quantize(name, path, precision=precision, report=lambda line: None).quality
            variant = VocosONNX(path)
            before, after = [], []
            for file in files:
                audio = load_audio(file, 24_000)
                for given in _given(original, encoder, audio):
                    scores = [pesq_wb(*_same_length(audio, v.decode(given)), 24_000) for v in (original, variant)]
                    before.append(scores[0])
                    after.append(scores[1])
            loss = np.subtract(before, after)
            figures = f"{np.mean(before):.3f} | {loss.mean():+.4f} | {loss.max():+.3f}" if files else "- | - | -"
            size = path.stat().st_size / 1e6
            assert quality is not None
            own = f"{quality.snr_db:.1f} dB | {quality.pesq_wb:.2f}"
            lines.append(f"| {name}, {precision} | {size:.1f} | {own} | {figures} |")
    return [*lines, ""]


def _given(vocos: Any, encoder: Any, audio: np.ndarray) -> Iterator[np.ndarray]:
    if vocos.config.encodec is None:
        yield vocos.features(audio, 24_000)
    else:
        tokens = encoder.encode(audio, 24_000, 12.0)
        yield from (tokens[:count] for count in vocos.config.encodec.codebooks_per_bandwidth)


def _same_length(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length = min(len(one), len(other))
    return one[:length], other[:length]


def plot(found: Found, seconds: float) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, geometry in zip(axes, GEOMETRIES, strict=True):
        measured = found[geometry, seconds]
        names = list(measured)[::-1]
        colours = ["tab:orange" if name.startswith("vocos-onnx") else "tab:gray" for name in names]
        axis.barh(names, [statistics.median(measured[name][2]) for name in names], color=colours)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(f"{'vocos-encodec' if geometry == 'encodec' else 'vocos-mel'}-24khz, {seconds:g} s")
        axis.set_xlabel("times as fast as torch eager")
    figure.savefig(HERE / "RESULTS.png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of every contender")
    parser.add_argument("--seconds", type=float, nargs="+", default=[1, 10, 60], help="lengths of audio; 10 among them")
    parser.add_argument("--rounds", type=int, default=12, help="rounds for each length; half above 20 s")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two turns")
    parser.add_argument("--decodes", type=int, default=10_000, help="of random lengths, for the memory")
    parser.add_argument("--clips", type=Path, help="folder of recordings speech_*, for what int8 costs")
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, geometry, folder = args.worker
        return serve(lambda: load(name, geometry, Path(folder), args.threads), make_input(geometry))

    from tests.parity.upstream import CONFIGS, build, save
    from vocos_onnx_export import export, quantize

    lines = [
        "# Results",
        "",
        "Written by `python -m benchmarks.run --clips CLIPS`; not by hand.",
        "",
        *(f"- {line}" for line in machine(*PACKAGES)),
        f"- {args.threads} threads for each; random weights of official geometry; ratio: seconds of torch eager / own "
        "seconds, by round, so that more is faster",
        "",
        "![ratios at 10 s](RESULTS.png)",
        "",
    ]
    with tempfile.TemporaryDirectory() as name:
        folders = {}
        for geometry in GEOMETRIES:
            folder = folders[geometry] = save(build(CONFIGS[geometry]), CONFIGS[geometry], Path(name) / geometry)
            export(str(folder), folder / "model.onnx", report=lambda line: None)
            quantize(folder / "model.onnx", folder / "int8.onnx", report=lambda line: None)
        decoded, found = decode_section(args, folders)
        lines += decoded
        lines += stream_section(args, folders["encodec"], found)
        lines += peak_section(args, found)
        lines += quality_section(args, Path(name))
        lines += start_section(args, folders["encodec"])
        lines += long_section(args, folders["encodec"])
    plot(found, 10)
    args.output.write_text("\n".join(lines), encoding="utf-8")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
