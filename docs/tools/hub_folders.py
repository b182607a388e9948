"""Lay out the bundled models as hub repositories: python docs/tools/hub_folders.py OUT

Creates a folder in OUT for each model, with its card (README.md) and its files under the names that VocosONNX looks
for; ``hf upload OWNER/NAME OUT/NAME`` pushes it as it is. The cards are generated from models/README.md, which has the
facts.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
# name -> the files of its folder, under the names of those in models/; the kind of task; tags
FOLDERS = {
    "vocos-codec-24khz": (
        {"model.onnx": "vocos-codec-24khz.onnx", "encoder.onnx": "vocos-codec-24khz-encoder.onnx"},
        "audio-to-audio",
        ("neural-codec", "vocoder", "vocos", "speech"),
    ),
    "vocos-mel-24khz-small": (
        {"model.onnx": "vocos-mel-24khz-small.onnx"},
        "text-to-speech",
        ("vocoder", "vocos", "mel-spectrogram", "speech"),
    ),
}
LANGUAGES = ("en", "de", "nl")  # of nearly all of the training data
USE = {
    "vocos-codec-24khz": """\
from vocos_onnx import EncodecONNX, VocosONNX, load_audio, save_audio

vocos, encoder = VocosONNX("OWNER/{name}"), EncodecONNX("OWNER/{name}")
tokens = encoder.encode(load_audio("speech.wav", 24_000), 24_000, bandwidth=6.0)  # (8, frames)
save_audio("copy.wav", vocos.decode(tokens), vocos.sample_rate)
""",
    "vocos-mel-24khz-small": """\
from vocos_onnx import VocosONNX, load_audio, save_audio

vocos = VocosONNX("OWNER/{name}")
mels = vocos.features(load_audio("speech.wav", 24_000), 24_000)  # (100, frames)
save_audio("copy.wav", vocos.decode(mels), vocos.sample_rate)
""",
}


def card(name: str) -> str:
    """The card of a model: its front matter, and what models/README.md says about it."""
    text = (MODELS / "README.md").read_text(encoding="utf-8")
    about = re.search(rf"^\*\*{re.escape(name)}\*\*: (.*?)\n\n", text, re.M | re.S)
    assert about is not None, name
    _, task, tags = FOLDERS[name]
    front = ["license: mit", "library_name: vocos-onnx", f"pipeline_tag: {task}", "language:"]
    front += [f"- {language}" for language in LANGUAGES]
    front += ["tags:", "- onnx", *(f"- {tag}" for tag in tags)]
    use = USE[name].format(name=name)
    parts = ["---\n" + "\n".join(front) + "\n---", f"# {name}", about[1][0].upper() + about[1][1:]]
    parts += ["## Use", f'```sh\npip install "vocos-onnx[cpu,hub]"\n```\n\n```python\n{use}```']
    for heading in ("Figures", "How they were made", "Data and licences"):
        section = re.search(rf"^## {heading}\n+(.*?)\n*(?=^## |\Z)", text, re.M | re.S)
        assert section is not None, heading
        parts.append(f"## {heading}\n\n{section[1]}")
    # Relative links lead to files in the repository of vocos-onnx, not in that of the model: keep only their text.
    return re.sub(r"\[([^\[\]]*)\]\((?![a-z]+:|#)[^()\s]+\)", r"\1", "\n\n".join(parts)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    out: Path = parser.parse_args().out
    for name, (files, _, _) in FOLDERS.items():
        folder = out / name
        folder.mkdir(parents=True)
        for new, old in files.items():
            shutil.copyfile(MODELS / old, folder / new)
        shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
        (folder / "README.md").write_text(card(name), encoding="utf-8")
        print(folder)


if __name__ == "__main__":
    main()
