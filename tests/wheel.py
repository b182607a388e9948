"""Checks a wheel where only it and its extra [cpu] are installed; run by .ci/run: python -I tests/wheel.py WHEEL"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

names = zipfile.ZipFile(sys.argv[1]).namelist()
top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
assert top == {"vocos_onnx", "vocos_onnx_export", "vocos_onnx_train"}, top
bundled = (
    "vocos-codec-24khz.onnx",
    "vocos-codec-24khz-encoder.onnx",
    "vocos-mel-24khz-small.onnx",
    "README.md",
    "registry.json",
    "speech_en_m_joe_48k_stereo.flac",
)
skeletons = ("vocos-encodec-24khz", "vocos-mel-24khz", "encodec_24khz")
configs = ("vocos_onnx_train/configs/vocos-mel-24khz.yaml", "vocos_onnx_train/configs/vocos-encodec-24khz.yaml")
for name in (
    "vocos_onnx/py.typed",
    "vocos_onnx/evaluate/report.html.j2",
    *(f"vocos_onnx/serve/page/{file}" for file in ("index.html", "style.css", "app.js", "icon.svg")),
    "vocos_onnx/serve/service.py",
    *configs,
    *(f"vocos_onnx/models/{file}" for file in bundled),
    *(f"vocos_onnx/models/skeletons/{name}.tar.xz" for name in skeletons),
):
    assert name in names, name

for module in ("torch", "onnx", "onnxscript", "torchaudio", "vocos", "encodec", "export", "train"):
    assert importlib.util.find_spec(module) is None, f"{module} can be imported"
import vocos_onnx  # noqa: E402

assert not [name for name in names if name.endswith(".sh")], names

assert Path(sys.prefix) in Path(vocos_onnx.__file__).parents, vocos_onnx.__file__

command = Path(sys.executable).parent / "vocos-onnx"
for extra, arguments in (
    ("export", ["export", "x/y", "-o", "m.onnx"]),
    ("train", ["train", "config.yaml", "--out", "run"]),
):
    done = subprocess.run([command, *arguments], capture_output=True, text=True)
    assert done.returncode == 2, done
    assert f"pip install 'vocos-onnx[{extra}]'" in done.stderr, done.stderr
    # The advice works even before a release: pip uses the installed package and asks no index for it.
    advice = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps", f"vocos-onnx[{extra}]"]
    subprocess.run(advice, check=True)
done = subprocess.run([command, "demo"], capture_output=True, text=True, check=True)
assert done.stdout.startswith("wrote demo.wav: "), done.stdout
for arguments in (
    ["resynth", "demo.wav", "copy.wav"],
    ["encode", "demo.wav", "t.npz"],
    ["decode", "t.npz", "again.wav"],
):
    subprocess.run([command, *arguments], capture_output=True, text=True, check=True)
assert Path("copy.wav").read_bytes() == Path("again.wav").read_bytes()
size = sum(f.stat().st_size for f in Path(sys.prefix).rglob("*") if f.is_file() and not f.is_symlink())
print(f"{Path(sys.argv[1]).name}: {Path(sys.argv[1]).stat().st_size / 1e6:.1f} MB; environment {size / 1e6:.0f} MB")
print(done.stdout, end="")
