"""A page to listen to: recordings beside what models make of them, with spectrograms and figures, in one file."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from vocos_onnx import EncodecONNX, VocosONNX, __version__, load_audio
from vocos_onnx.analysis import bandwidth_index
from vocos_onnx.arrays import Float
from vocos_onnx.io.files import check_target, whole_file
from vocos_onnx.io.plot import N_FFT, draw_spectrogram, spectrogram
from vocos_onnx.model.bundled import CODEC, MEL, find_model
from vocos_onnx.model.providers import Provider

from .metrics import compare, dnsmos, require

PathLike = str | os.PathLike[str]

IMAGE_WIDTH, IMAGE_HEIGHT, IMAGE_DPI = 720, 280, 150  # pixels; sharp on a phone, where it is 360 points wide
# In a page of more players each opens when it is started: browsers open only so many (Chromium 92: 75, on phones 40).
MAX_OPEN_PLAYERS = 40
COLUMNS = (
    ("pesq_wb", "PESQ ↑", ".2f"),
    ("stoi", "STOI ↑", ".3f"),
    ("mel_distance", "Mel ↓", ".3f"),
    ("ovrl", "DNSMOS ↑", ".2f"),
)


class System(NamedTuple):
    """A model, of an encodec model at one bandwidth: what makes a copy of a recording."""

    model: str
    bandwidth: float | None
    vocos: VocosONNX
    encoder: EncodecONNX | None

    @property
    def features(self) -> str:
        return "mels" if self.bandwidth is None else f"{self.bandwidth:g} kbps"

    def copy(self, audio: Float) -> Float:
        """Audio (N,) at the model's rate -> (M,) at that rate, M <= N: whole frames, cut off after N samples."""
        return self.vocos(audio, self.vocos.sample_rate, bandwidth=self.bandwidth, encoder=self.encoder)[: len(audio)]


class _Version(NamedTuple):
    """A recording (of no model) or a copy of it on the page."""

    model: str
    features: str
    figures: dict[str, float]
    audio: Float
    sample_rate: int

    @property
    def label(self) -> str:
        return f"{self.model}, {self.features}" if self.model else self.features


class _Row(NamedTuple):
    """Of the table: a version's figures by their names, as ``metrics.compare`` gives them."""

    model: str
    features: str
    figures: dict[str, float]


class _Clip(NamedTuple):
    title: str
    seconds: float
    rows: list[_Row]
    players: str


def report(
    output: PathLike,
    inputs: Sequence[PathLike],
    models: Sequence[PathLike] | None = None,
    encoder: PathLike | None = None,
    bandwidths: Sequence[float] | None = None,
    progress: Callable[[int, int, int], None] | None = None,
    on_error: Callable[[Exception], None] | None = None,
    providers: Sequence[Provider] | None = None,
    threads: int | None = None,
    overwrite: bool = True,
) -> None:
    """Write an HTML page with each recording and its copies: players, spectrograms and a table of the metrics.

    The page is one file that needs no other and no network. It holds the audio as 16-bit FLAC, the recording mixed to
    mono at the (highest) rate of the models, so that what is heard beside a copy is what the copy was made of.

    Args:
        output: file to write, with the ending .html.
        inputs: audio files of any kind, rate and number of channels.
        models: .onnx files, or names of bundled models; by default all of these.
        encoder: of the encodec models with its codebooks; the bundled codec needs none.
        bandwidths: kbps, of the encodec models; by default all that a model has.
        progress: called with the input's index, the number of its copies that are done, and of those in all.
        on_error: called with the error of an input that cannot be done, which is then left out; by default it is
            raised.
        providers: as ``VocosONNX`` takes them.
        threads: as ``VocosONNX`` takes them.
        overwrite: whether a page that exists is replaced.

    Raises:
        ValueError: an output with another ending; no input, or none that can be done; a bandwidth that a model does not
            have; an encoder that is missing or of no model; an input that is not audio.
        FileNotFoundError: there is no such input or model, or no folder for the output.
        OSError: the folder cannot be written.
        ImportError: a package of the extra [report] is not installed.
    """
    output = Path(output)
    if output.suffix.lower() != ".html":
        raise ValueError(f"{output.name!r} does not end in .html, the kind of file that a report is written to")
    check_target(output, overwrite=overwrite)
    paths = [Path(path) for path in inputs]
    if not paths:
        raise ValueError("inputs is empty, expected one or more audio files")
    for package in ("matplotlib.figure", "pesq", "pystoi", "speechmos.dnsmos"):
        require(package)
    systems = open_systems(models, encoder, bandwidths, providers, threads)
    preload = "metadata" if len(paths) * (len(systems) + 1) <= MAX_OPEN_PLAYERS else "none"
    clips = []
    for i, (path, title) in enumerate(zip(paths, _titles(paths), strict=True)):

        def one_more(done: int, index: int = i) -> None:
            if progress is not None:
                progress(index, done, len(systems))

        try:
            clips.append(_clip(path, title, systems, preload, one_more))
        except (ValueError, OSError) as error:
            if on_error is None:
                raise
            on_error(error)
    if not clips:
        raise ValueError(f"none of the {len(paths)} inputs could be done, and {output} is not written")
    with whole_file(output, overwrite=overwrite) as partial:
        # a file name need not be UTF-8: its other bytes are shown as escapes
        partial.write_text(_page(clips, systems), encoding="utf-8", errors="backslashreplace")


def open_systems(
    models: Sequence[PathLike] | None = None,
    encoder: PathLike | None = None,
    bandwidths: Sequence[float] | None = None,
    providers: Sequence[Provider] | None = None,
    threads: int | None = None,
) -> list[System]:
    """Every model at every bandwidth, in the order given, each tried on a second of silence. Arguments as ``report``.

    Raises ValueError and FileNotFoundError as ``report`` does.
    """
    files = [find_model(model) for model in models or (CODEC, MEL)]
    tokenizer = None if encoder is None else EncodecONNX(encoder, providers=providers, threads=threads)
    systems = []
    for name, file in zip(_titles(files, stem=True), files, strict=True):
        vocos = VocosONNX(file, providers=providers, threads=threads)
        if vocos.config.encodec is None:
            systems.append(System(name, None, vocos, None))
            continue
        fits = tokenizer is not None and vocos.config.encodec.codebooks_sha256 in tokenizer.config.codebooks_sha256
        for kbps in dict.fromkeys(bandwidths or vocos.bandwidths):
            index = bandwidth_index(kbps, vocos.bandwidths)
            systems.append(System(name, vocos.bandwidths[index], vocos, tokenizer if fits else None))
    if encoder is not None and not any(system.encoder for system in systems):
        raise ValueError(f"encoder {encoder} has the codebooks of none of the models: {', '.join(map(str, files))}")
    if bandwidths and not any(system.bandwidth for system in systems):
        raise ValueError("bandwidths are given, but all models are mel models, without tokens: leave them out")
    for system in systems:
        system.copy(np.zeros(system.vocos.sample_rate, np.float32))
    return systems


def _titles(paths: list[Path], stem: bool = False) -> list[str]:
    """The name of each file, or all of its path where another has the same name."""
    names = [path.stem if stem else path.name for path in paths]
    return [str(path) if names.count(name) > 1 else name for name, path in zip(names, paths, strict=True)]


def _clip(path: Path, title: str, systems: list[System], preload: str, progress: Callable[[int], None]) -> _Clip:
    progress(0)
    rates = {system.vocos.sample_rate for system in systems}
    recordings = {rate: load_audio(path, rate) for rate in rates}
    rate = max(rates)
    versions = [_Version("", "Original", dnsmos(recordings[rate], rate), recordings[rate], rate)]
    for done, system in enumerate(systems, 1):
        recording = recordings[system.vocos.sample_rate]
        try:
            copy = system.copy(recording)
        except ValueError as error:  # too short for the mels
            raise ValueError(f"{path}: {error}") from None
        figures = compare(recording, copy, system.vocos.sample_rate)
        versions.append(_Version(system.model, system.features, figures, copy, system.vocos.sample_rate))
        progress(done)
    seconds = len(recordings[rate]) / rate
    players = [
        _player(version, image, title, preload)
        for version, image in zip(versions, _images(versions, seconds), strict=True)
    ]
    rows = [_Row(version.model, version.features, version.figures) for version in versions]
    return _Clip(title, seconds, rows, "\n".join(players))


def _player(version: _Version, image: str, title: str, preload: str) -> str:
    name = escape(f"{title}, {version.label}")
    return f"""<figure>
<figcaption>{escape(version.label)}</figcaption>
<img src="{image}" width="{IMAGE_WIDTH}" height="{IMAGE_HEIGHT}" alt="Spectrogram of {name}">
<audio controls preload="{preload}" src="{_sound(version)}" aria-label="{name}"></audio>
</figure>"""


def _sound(version: _Version) -> str:
    """FLAC: every browser of today plays it, Safari since 11 of 2017, and it is half of what WAV is, without loss."""
    samples = np.rint(version.audio * 32768).clip(-32768, 32767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, version.sample_rate, format="FLAC")
    return _data("audio/flac", file)


def _images(versions: list[_Version], seconds: float) -> list[str]:
    """Their spectrograms, on the same scales of time, frequency and decibels."""
    figure_class = require("matplotlib.figure").Figure
    drawn = []
    for version in versions:
        hop = max(N_FFT // 4, len(version.audio) // IMAGE_WIDTH)
        drawn.append((version, hop, spectrogram(version.audio, hop)))
    top = float(drawn[0][2].max())  # the recording's, whatever a copy is like
    nyquist = max(version.sample_rate for version in versions) / 2000
    images = []
    for version, hop, level in drawn:
        size = (IMAGE_WIDTH / IMAGE_DPI, IMAGE_HEIGHT / IMAGE_DPI)
        figure = figure_class(figsize=size, layout="constrained", facecolor="none")
        axis = figure.subplots()
        draw_spectrogram(axis, level, hop, version.sample_rate, top)
        axis.set(xlim=(0, seconds), ylim=(0, nyquist), facecolor="black")
        axis.set_xlabel("s")
        axis.locator_params(axis="y", nbins=5, integer=True)
        grey = "#7b7b7b"  # can be read on the page's white and on its black
        axis.tick_params(colors=grey)
        axis.xaxis.label.set_color(grey)
        axis.yaxis.label.set_color(grey)
        axis.spines[:].set_visible(False)
        file = io.BytesIO()
        # a fifth of PNG's size, for a picture of noise
        figure.savefig(file, format="webp", dpi=IMAGE_DPI, pil_kwargs={"quality": 80})
        images.append(_data("image/webp", file))
    return images


def _data(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _page(clips: list[_Clip], systems: list[System]) -> str:
    count = f"{len(clips)} recordings" if len(clips) > 1 else "1 recording"
    mean = ""
    if len(clips) > 1:
        rows = [
            first._replace(figures=_mean([row.figures for row in same]))
            for first, *same in ((rows[0], *rows) for rows in zip(*(clip.rows for clip in clips), strict=True))
        ]
        contents = "\n".join(
            f'<li><a href="#clip-{i}">{escape(clip.title)}</a></li>' for i, clip in enumerate(clips, 1)
        )
        mean = f"""<section aria-labelledby="mean">
<h2 id="mean">Mean</h2>
{_table("mean", rows)}
</section>
<nav aria-label="Recordings"><ol>
{contents}
</ol></nav>"""
    sections = "\n".join(
        f"""<section id="clip-{i}" aria-labelledby="title-{i}">
<h2 id="title-{i}">{escape(clip.title)} <small>{clip.seconds:.2f} s</small></h2>
{_table(f"title-{i}", clip.rows)}
<div class="players">
{clip.players}
</div>
</section>"""
        for i, clip in enumerate(clips, 1)
    )
    models = {system.model: system.vocos.config for system in systems}
    sources = "; ".join(
        f"{escape(name)}: {escape(config.source.name)}, {config.sample_rate:,} Hz" for name, config in models.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Copy-synthesis of {count} – vocos-onnx</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>Copy-synthesis of {count}</h1>
<p>Each recording, and what comes out when a model takes it apart and puts it together again.</p>
</header>
<main>
{mean}
{sections}
<section aria-labelledby="metrics">
<h2 id="metrics">What the figures are</h2>
{METRICS}
</section>
</main>
<footer><p>Made with vocos-onnx {__version__}. Models: {sources}.</p></footer>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _mean(figures: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the clips that have it."""
    means = {}
    for key, _, _ in COLUMNS:
        values = [f[key] for f in figures if not np.isnan(f.get(key, np.nan))]
        means[key] = float(np.mean(values)) if values else np.nan
    return means


def _table(heading_id: str, rows: list[_Row]) -> str:
    """The original, then each model's name and under it its copies: names beside the figures would not fit a phone."""
    lines = []
    for model, group in groupby(rows, key=lambda row: row.model):
        lines.append("<tbody>")
        if model:
            lines.append(f'<tr><th scope="rowgroup" colspan="{len(COLUMNS) + 1}">{escape(model)}</th></tr>')
        for row in group:
            cells = "".join(f"<td>{_number(row.figures.get(key, np.nan), form)}</td>" for key, _, form in COLUMNS)
            lines.append(f'<tr><th scope="row">{row.features}</th>{cells}</tr>')
        lines.append("</tbody>")
    head = "".join(f'<th scope="col">{heading}</th>' for _, heading, _ in COLUMNS)
    body = "\n".join(lines)
    return f"""<div class="wide"><table aria-labelledby="{heading_id}">
<thead><tr><td></td>{head}</tr></thead>
{body}
</table></div>"""


def _number(value: float, form: str) -> str:
    return "–" if np.isnan(value) else format(value, form)


# what is not in the page, the browser does not load
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

SCRIPT = """
document.addEventListener("play", event => {
  for (const audio of document.querySelectorAll("audio")) if (audio !== event.target) audio.pause();
}, true);
"""

METRICS = """<dl>
<dt>PESQ ↑</dt>
<dd>Wide-band PESQ (ITU-T P.862.2), at 16 kHz: predicted opinion of the copy beside the original, 1.04 to 4.64.</dd>
<dt>STOI ↑</dt>
<dd>Short-time objective intelligibility (Taal et al. 2011), at 10 kHz: about 0 to 1.</dd>
<dt>Mel ↓</dt>
<dd>Mean absolute difference of the natural logarithms of 100 mel bands, at 24 kHz, the loss that Vocos is trained with:
0 and up.</dd>
<dt>DNSMOS ↑</dt>
<dd>DNSMOS P.835, overall (Reddy et al. 2022), at 16 kHz: predicted opinion of the speech by itself, 1 to 5.</dd>
</dl>
<p>PESQ, STOI and DNSMOS are made for speech. A dash is no figure: the first three compare a copy with the original, and
silence or a very short recording has none. Means are over the recordings that have one. The spectrograms of a
recording are on one scale, 90 dB down from its loudest. The original is mixed to mono, at the sample rate of the
models.</p>"""

STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --back: #fff; --soft: #5c5c5c; --line: #d0d0d0; --link: #0645ad; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e8e8; --back: #121212; --soft: #a8a8a8; --line: #3c3c3c; --link: #8ab4f8; }
}
body { max-width: 72rem; margin: 0 auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif;
  color: var(--text); background: var(--back); }
h1, h2, figcaption, a { overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
small, footer { color: var(--soft); font-weight: normal; font-size: .875rem; }
a { color: var(--link); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th { font-weight: normal; white-space: nowrap; }
thead th, [scope="rowgroup"] { font-weight: 600; white-space: normal; }
tr > :first-child { text-align: left; padding-left: 0; }
[scope="rowgroup"] { overflow-wrap: anywhere; }
.players { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr));
  margin-top: 1rem; }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; margin: .25rem 0; }
audio { display: block; width: 100%; }
dt { font-weight: 600; }
dd { margin: 0 0 .5rem; }
@media (max-width: 30rem) { th, td { padding: .25rem .3rem; font-size: .875rem; } }
"""
