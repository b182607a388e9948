"""Draws the picture of the README: python docs/tools/spectrograms.py RECORDING

RECORDING is speech_en_m_joe_48k_stereo.flac, the source of the bundled tokens of that name (Nabu Casa Voice Datasets,
en_US, joe; CC0 1.0). Needs the extra [plot].
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from vocos_onnx import VocosONNX, load_audio
from vocos_onnx.io.plot import draw_spectrogram, spectrogram

SECONDS, HOP, KBPS = 4, 120, 6.0
OUTPUT = Path(__file__).resolve().parents[1] / "assets" / "spectrograms.png"

vocos = VocosONNX()
rate = vocos.sample_rate
recording = load_audio(sys.argv[1], rate)[: SECONDS * rate]
copy = vocos(recording, rate, bandwidth=KBPS)
levels = {
    "recording": spectrogram(recording, HOP),
    f"the same from {KBPS:g} kbps of tokens, by the bundled codec": spectrogram(copy, HOP),
}
top = max(float(level.max()) for level in levels.values())
figure = Figure(figsize=(9, 4.5), layout="constrained")
axes = figure.subplots(2, 1, sharex=True)
for axis, (title, level) in zip(axes, levels.items(), strict=True):
    draw_spectrogram(axis, level, HOP, rate, top)
    axis.set_title(title, fontsize="medium")
axes[-1].set_xlabel("s")
picture = io.BytesIO()
figure.savefig(picture, dpi=100)
Image.open(picture).convert("RGB").quantize(48, dither=Image.Dither.NONE).save(OUTPUT, optimize=True)
print(f"wrote {OUTPUT}, {OUTPUT.stat().st_size / 1e3:.0f} kB")
