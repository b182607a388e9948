"""python -m tests.converted.check FOLDER: converts the checkpoints of tests.converted.make without torch.

Run in an environment without torch and onnx. ``vocos-onnx convert`` converts each checkpoint in a separate process. The
weights in the file must equal the export's bit for bit (for an encoder, whose weight norm is folded, within 1e-6).
Relative to the peak, its audio must be within 1e-6 of the exported file's (embeddings 3e-6), and within 1e-4 of the
reference package's. VocosONNX must also open the folder itself. If the folder has expected.txt, both must fail with
that message, and the exported file, if there is one, must give the reference's audio.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vocos_onnx import EncodecONNX, VocosONNX
from vocos_onnx.model.config import METADATA_KEY
from vocos_onnx.model.session import open_file


def relative(given: np.ndarray, expected: np.ndarray) -> float:
    assert given.shape == expected.shape, (given.shape, expected.shape)
    return float(np.abs(given - expected).max() / np.abs(expected).max())


PROGRAM = """
import sys
from vocos_onnx.cli import main
code = main(sys.argv[1:])
# not getrusage, which counts the memory of the process that has started this one
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak)
sys.exit(code)
"""


def converted(checkpoint: Path, *options: str) -> tuple[Path, float, int]:
    """The converted file, the time in seconds, and the peak memory of the process in MB."""
    output = Path(tempfile.mkdtemp()) / "converted.onnx"
    command = [sys.executable, "-c", PROGRAM, "convert", str(checkpoint), "-o", str(output), *options]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, checkpoint
    return output, time.perf_counter() - started, int(done.stdout.split()[-1]) * 1024 // 1_000_000


def weights_of(path: Path) -> dict[str, np.ndarray]:
    return dict(open_file(path, METADATA_KEY).weights)


def check_refused(folder: Path) -> None:
    message = (folder / "expected.txt").read_text()
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "vocos_onnx", "convert", str(folder), "-o", f"{output}/model.onnx"]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        assert done.returncode and message in done.stderr, done
        assert not list(Path(output).iterdir())
    if (exported := folder / "expected.onnx").exists():
        with np.load(folder / "expected.npz") as reference:
            difference = relative(VocosONNX(exported).decode(reference["given"]), reference["audio"])
        assert difference <= 1e-4, (folder, difference)
    try:
        VocosONNX(folder)
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError(folder)
    print(f"| {folder.name} | refused: {message} | | | |", flush=True)


def check(folder: Path) -> None:
    if (folder / "expected.txt").exists():
        return check_refused(folder)
    meta = folder / "encodec_24khz.th"
    path, seconds, megabytes = converted(meta if meta.exists() else folder)
    given, expected = weights_of(path), weights_of(folder / "expected.onnx")
    assert given.keys() == expected.keys() != set(), folder
    tolerance = 1e-6 if "encodec-" in folder.name else 0
    differences = {name: relative(given[name], expected[name]) for name in given if expected[name].any()}
    assert max(differences.values()) <= tolerance, (folder, differences)
    with np.load(folder / "expected.npz") as reference:
        if "embeddings" in reference:
            recording, theirs = reference["given"], reference["embeddings"]
            ours, exported = (EncodecONNX(p).embed(recording, 24_000)[0] for p in (path, folder / "expected.onnx"))
        else:
            tokens_or_mels, theirs = reference["given"], reference["audio"]
            ours, exported = (VocosONNX(p).decode(tokens_or_mels) for p in (path, folder / "expected.onnx"))
            assert np.array_equal(VocosONNX(folder).decode(tokens_or_mels), ours), folder
    path.unlink()
    to_export, to_theirs = relative(ours, exported), relative(ours, theirs)
    assert to_export <= (3e-6 if tolerance else 1e-6) and to_theirs <= 1e-4, (folder, to_export, to_theirs)
    print(f"| {folder.name} | {to_export:.1e} | {to_theirs:.1e} | {seconds:.1f} | {megabytes} |", flush=True)


def main(folder: Path) -> None:
    assert not importlib.util.find_spec("torch") and not importlib.util.find_spec("onnx")
    os.environ["VOCOS_ONNX_CACHE"] = tempfile.mkdtemp()
    print("| checkpoint | to the export | to the reference | s | MB |\n|---|---|---|---|---|")
    for checkpoint in sorted(folder.iterdir()):
        check(checkpoint)
    for precision in "int8", "fp16":
        path, seconds, megabytes = converted(folder / "encodec", f"--{precision}")
        with np.load(folder / "encodec" / "expected.npz") as expected:
            ours, theirs = VocosONNX(path).decode(expected["given"]), expected["audio"]
        path.unlink()
        snr = 10 * np.log10((theirs**2).sum() / ((ours - theirs) ** 2).sum())
        assert snr > 15, (precision, snr)
        print(f"| encodec, {precision} | – | SNR {snr:.1f} dB | {seconds:.1f} | {megabytes} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
