"""A listening page in one file: recordings beside the models' copies of them, with spectrograms and figures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vocos_onnx import __version__, load_audio
from vocos_onnx.arrays import Float
from vocos_onnx.io.files import check_target, whole_file
from vocos_onnx.io.plot import N_FFT, draw_spectrogram, spectrogram
from vocos_onnx.io.samples import to_int16
from vocos_onnx.messages import printable
from vocos_onnx.model.providers import Provider

from .metrics import alone, compare, require
from .systems import PathLike, System, open_systems, titles

TEMPLATE = "report.html.j2"  # beside this module
IMAGE_WIDTH, IMAGE_HEIGHT, IMAGE_DPI = 720, 280, 150  # pixels; sharp on a phone, at 360 points wide
# With more players, each loads only when started: browsers open a limited number (Chromium 92: 75, on phones 40).
MAX_OPEN_PLAYERS = 40
COLUMNS = (
    ("pesq_wb", "PESQ ↑", ".2f"),
    ("stoi", "STOI ↑", ".3f"),
    ("mel_distance", "Mel ↓", ".3f"),
    ("ovrl", "DNSMOS ↑", ".2f"),
    ("p808", "P.808 ↑", ".2f"),
    ("harmonicity_1k", "Harmonicity ↑", ".2f"),
    ("line", "Buzz ↓", ".1f"),
)


class Row(NamedTuple):
    """A row of a table: the figures of a recording or a copy, by name, as ``metrics.compare`` returns them."""

    model: str  # empty for the recording itself
    features: str
    figures: dict[str, float]


class Version(NamedTuple):
    """A recording or a copy of it: what the page shows and plays under one label."""

    label: str
    image: str  # data URL of its spectrogram
    sound: str  # data URL of its audio


class Clip(NamedTuple):
    """The section of the page about one recording."""

    title: str
    seconds: float
    rows: list[Row]
    versions: list[Version]

    @property
    def groups(self) -> list[tuple[str, list[Row]]]:
        return by_model(self.rows)


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
    """Writes an HTML page with each recording and its copies: players, spectrograms and a table of the metrics.

    The page is a single self-contained file that needs no network. It embeds the audio as 16-bit FLAC. The recording is
    mixed to mono at the models' (highest) sample rate, so what you hear beside a copy is what the copy was made from.

    Args:
        output: file to write, with the extension .html.
        inputs: audio files of any format, sample rate and number of channels.
        models: .onnx files, or names of bundled models; by default all of these.
        encoder: the encoder for the encodec models with its codebooks; the bundled codec needs none.
        bandwidths: bandwidths of the encodec models, in kbps; by default all that a model has.
        progress: called with the input's index, the number of its copies that are done, and their total number.
        on_error: called with the error of an input that fails, which is then omitted; by default the error is raised.
        providers: as ``VocosONNX`` takes them.
        threads: as ``VocosONNX`` takes them.
        overwrite: whether to replace an existing page.

    Raises:
        ValueError: if the output has another extension, there is no input or every input fails, a model lacks a
            bandwidth, an encoder is missing or matches no model, or an input is not audio.
        FileNotFoundError: if an input, a model or the folder of the output does not exist.
        OSError: if the folder cannot be written.
        ImportError: if a package of the extra [report] is not installed.
    """
    output = Path(output)
    if output.suffix.lower() != ".html":
        raise ValueError(f"{output.name!r} does not end in .html, the kind of file that a report is written to")
    check_target(output, overwrite=overwrite)
    paths = [Path(path) for path in inputs]
    if not paths:
        raise ValueError("inputs is empty, expected one or more audio files")
    for package in ("jinja2", "matplotlib.figure", "pesq", "pystoi", "speechmos.dnsmos"):
        require(package)
    systems = open_systems(models, encoder, bandwidths, providers, threads)
    clips = []
    for i, (path, title) in enumerate(zip(paths, titles(paths), strict=True)):

        def one_more(done: int, index: int = i) -> None:
            if progress is not None:
                progress(index, done, len(systems))

        try:
            clips.append(read_clip(path, title, systems, one_more))
        except (ValueError, OSError) as error:
            if on_error is None:
                raise
            on_error(error)
    if not clips:
        raise ValueError(f"none of the {len(paths)} inputs could be done, and {output} is not written")
    preload = "metadata" if len(paths) * (len(systems) + 1) <= MAX_OPEN_PLAYERS else "none"
    with whole_file(output, overwrite=overwrite) as partial:
        partial.write_text(render(clips, systems, preload), encoding="utf-8")


def read_clip(path: Path, title: str, systems: list[System], progress: Callable[[int], None]) -> Clip:
    """Reads a recording and makes a copy with every system; calls ``progress`` with the number of copies done."""
    progress(0)
    rates = {system.vocos.sample_rate for system in systems}
    recordings = {rate: load_audio(path, rate) for rate in rates}
    rate = max(rates)
    rows = [Row("", "Original", alone(recordings[rate], rate))]
    heard = [(recordings[rate], rate)]
    for done, system in enumerate(systems, 1):
        recording, copy_rate = recordings[system.vocos.sample_rate], system.vocos.sample_rate
        try:
            copy = system.copy(recording)
        except ValueError as error:  # too short for the mels
            raise ValueError(f"{path}: {error}") from None
        frame_rate = copy_rate / system.vocos.hop_length
        rows.append(Row(system.model, system.features, compare(recording, copy, copy_rate, frame_rate)))
        heard.append((copy, copy_rate))
        progress(done)
    seconds = len(recordings[rate]) / rate
    versions = [
        Version(f"{row.model}, {row.features}" if row.model else row.features, image, flac(*audio))
        for row, audio, image in zip(rows, heard, spectrograms(heard, seconds), strict=True)
    ]
    return Clip(title, seconds, rows, versions)


def flac(audio: Float, sample_rate: int) -> str:
    """Audio (N,) as a data URL. All current browsers play FLAC (Safari since 11, 2017), at half the size of WAV."""
    import soundfile

    samples = to_int16(audio)
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="FLAC")
    return data_url("audio/flac", file)


def spectrograms(heard: list[tuple[Float, int]], seconds: float) -> list[str]:
    """Spectrograms of audio (N,) as data URLs, all on the same time, frequency and decibel scales.

    The first one is the recording's, and its peak sets the decibel scale.
    """
    figure_class = require("matplotlib.figure").Figure
    drawn = []
    for audio, sample_rate in heard:
        hop = max(N_FFT // 4, len(audio) // IMAGE_WIDTH)
        drawn.append((spectrogram(audio, hop), hop, sample_rate))
    top = float(drawn[0][0].max())
    nyquist = max(sample_rate for _, sample_rate in heard) / 2000  # kHz
    images = []
    for level, hop, sample_rate in drawn:
        size = (IMAGE_WIDTH / IMAGE_DPI, IMAGE_HEIGHT / IMAGE_DPI)
        figure = figure_class(figsize=size, layout="constrained", facecolor="none")
        axis = figure.subplots()
        draw_spectrogram(axis, level, hop, sample_rate, top)
        axis.set(xlim=(0, seconds), ylim=(0, nyquist), facecolor="black")
        axis.set_xlabel("s")
        axis.locator_params(axis="y", nbins=5, integer=True)
        grey = "#7b7b7b"  # legible on the page's white and on its black
        axis.tick_params(colors=grey)
        axis.xaxis.label.set_color(grey)
        axis.yaxis.label.set_color(grey)
        axis.spines[:].set_visible(False)
        file = io.BytesIO()
        # a fifth of the size of PNG for noisy images
        figure.savefig(file, format="webp", dpi=IMAGE_DPI, pil_kwargs={"quality": 80})
        images.append(data_url("image/webp", file))
    return images


def data_url(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def by_model(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """Groups consecutive rows of the same model."""
    return [(model, list(group)) for model, group in groupby(rows, key=lambda row: row.model)]


def mean_rows(clips: list[Clip]) -> list[Row]:
    """The mean of each figure for each version, over the clips that have the figure."""
    rows = []
    for same in zip(*(clip.rows for clip in clips), strict=True):
        means = {}
        for key, _, _ in COLUMNS:
            values = [value for row in same if not math.isnan(value := row.figures.get(key, math.nan))]
            if values:
                means[key] = float(np.mean(values))
        rows.append(Row(same[0].model, same[0].features, means))
    return rows


def render(clips: list[Clip], systems: list[System], preload: str) -> str:
    """Renders the page. ``preload`` is for its players: "metadata", or "none" if each loads only when started."""
    jinja2 = require("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"figure": figure_text, "printable": printable}
    page: str = environment.get_template(TEMPLATE).render(
        clips=clips,
        means=by_model(mean_rows(clips)),
        columns=COLUMNS,
        models={system.model: system.vocos.config for system in systems},
        preload=preload,
        image_width=IMAGE_WIDTH,
        image_height=IMAGE_HEIGHT,
        package_version=__version__,
    )
    return page


def figure_text(value: float | None, form: str) -> str:
    """Formats a figure for a table; a dash stands for a missing one."""
    return "–" if value is None or math.isnan(value) else format(value, form)
