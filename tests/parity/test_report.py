"""The metrics have known values on known signals; the report page is complete, self-contained and correct."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Never

import numpy as np
import pytest
import soundfile

import vocos_onnx.evaluate.metrics as metrics
import vocos_onnx.evaluate.report as reporting
from tests.helpers import DATA
from vocos_onnx import EncodecONNX, Tokens, VocosONNX, load_audio, load_tokens
from vocos_onnx.cli import main
from vocos_onnx.dsp.resample import resample
from vocos_onnx.evaluate.report import report
from vocos_onnx.evaluate.systems import open_systems
from vocos_onnx.model.bundled import default_model

RATE = 24_000
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    """Two seconds of each bundled recording, decoded by the model."""
    clips = []
    for path in sorted(default_model().parent.glob("speech_*.npz")):
        with np.load(path) as archive:
            clips.append(VocosONNX().decode(archive["tokens"][:, 75:225]).clip(-1, 1))
    return clips


def test_metrics_of_the_same(speech: list[np.ndarray]) -> None:
    for clip in speech:
        assert metrics.pesq_wb(clip, clip, RATE) == pytest.approx(4.644, abs=1e-3)
        assert metrics.stoi(clip, clip, RATE) == pytest.approx(1, abs=1e-6)
        assert metrics.mel_distance(clip, clip, RATE) == 0


def test_noise_makes_every_metric_worse(speech: list[np.ndarray]) -> None:
    noise = RNG.standard_normal(speech[0].shape).astype(np.float32)
    scores = [metrics.compare(speech[0], speech[0] + gain * noise, RATE) for gain in (0, 0.003, 0.03)]
    for name in ("pesq_wb", "stoi", "ovrl", "bak", "p808"):
        first, second, third = (score[name] for score in scores)
        assert first > second > third, name
    first, second, third = (score["mel_distance"] for score in scores)
    assert first < second < third
    assert scores[0]["harmonicity_2k"] > scores[2]["harmonicity_2k"]
    assert all(1 <= score[name] <= 5 for score in scores for name in ("ovrl", "sig", "bak", "p808"))


def test_mel_distance_of_a_gain_is_its_logarithm() -> None:
    """White noise has no band below the floor, so a gain shifts every log-mel by ln(gain)."""
    noise = 0.1 * RNG.standard_normal(RATE)
    assert metrics.mel_distance(noise, 0.5 * noise, RATE) == pytest.approx(np.log(2), abs=1e-5)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_metrics_at_other_rates(speech: list[np.ndarray], rate: int) -> None:
    clip = resample(speech[0], RATE, rate)
    assert metrics.pesq_wb(clip, clip, rate) > 4.6
    assert metrics.stoi(clip, clip, rate) == pytest.approx(1, abs=1e-6)
    assert metrics.mel_distance(clip, clip, rate) == 0


@pytest.mark.parametrize("samples", [0, 1, 100, 512])
def test_too_short_for_any_metric(samples: int) -> None:
    clip = RNG.standard_normal(samples)
    assert all(np.isnan(score) for score in metrics.compare(clip, clip, RATE).values())


def test_silence(speech: list[np.ndarray]) -> None:
    silence = np.zeros_like(speech[0])
    assert all(np.isnan(score) for score in metrics.compare(silence, silence, RATE).values())
    assert all(np.isnan(metric(silence, speech[0], RATE)) for metric in (metrics.pesq_wb, metrics.stoi))
    assert np.isnan(metrics.pesq_wb(speech[0], silence, RATE))
    assert metrics.stoi(speech[0], silence, RATE) == pytest.approx(0, abs=1e-6)
    assert metrics.mel_distance(speech[0], silence, RATE) > 5


def test_pesq_of_many_utterances() -> None:
    """The pesq package itself crashes on audio with this many utterances."""
    seconds = np.arange(40 * 16_000) / 16_000
    bursts = 0.1 * RNG.standard_normal(seconds.shape) * (seconds % 0.5 < 0.25)
    half = len(bursts) // 2
    noisy = bursts + 0.001 * RNG.standard_normal(bursts.shape)
    halves = [metrics.pesq_wb(bursts[part], noisy[part], 16_000) for part in (slice(half), slice(half, None))]
    assert metrics.pesq_wb(bursts, noisy, 16_000) == pytest.approx(np.mean(halves))


def test_dnsmos_clips_what_is_beyond_full_scale(speech: list[np.ndarray]) -> None:
    loud = 3 * speech[0] / np.abs(speech[0]).max()
    at_16k = resample(loud, RATE, 16_000)
    assert metrics.dnsmos(loud, RATE) == metrics.dnsmos(at_16k.clip(-1, 1), 16_000)


@pytest.mark.parametrize("shape", [(100,), (2, RATE)])
def test_shapes_that_do_not_fit(shape: Any) -> None:
    with pytest.raises(ValueError, match=r"have shapes .* expected \(N,\) each"):
        metrics.stoi(np.ones(shape), np.ones(RATE), RATE)


@pytest.mark.parametrize(
    ("metric", "package", "missing"),
    [
        ("pesq_wb", "pesq", "pesq"),
        ("stoi", "pystoi", "pystoi"),
        ("compare", "speechmos.dnsmos", "speechmos.dnsmos"),
    ],
)
def test_without_a_package(
    speech: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, metric: str, package: str, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"need {missing}: pip install 'vocos-onnx\[report\]'"):
        getattr(metrics, metric)(speech[0], speech[0], RATE)


def test_importing_it_loads_no_package_of_the_extra_and_no_torch() -> None:
    code = """
import sys, vocos_onnx.evaluate.report, vocos_onnx.evaluate.card
print({"torch", "jinja2", "matplotlib", "pesq", "soundfile", "onnxruntime"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class Page(HTMLParser):
    """A page's start tags with their attributes, table cells, and section headings."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[str]]] = []
        self.headings: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self._cell = self._heading = False
        self.feed(self.text)

    def handle_starttag(self, tag: Any, attrs: Any) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self._cell = True
        elif tag == "h2":
            self.headings.append("")
            self._heading = True

    def handle_endtag(self, tag: Any) -> None:
        if tag in ("th", "td"):
            self._cell = False
        elif tag == "h2":
            self._heading = False

    def handle_data(self, data: Any) -> None:
        if self._cell:
            self.tables[-1][-1][-1] += data
        if self._heading:
            self.headings[-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def audio(self) -> list[tuple[np.ndarray, int]]:
        return [
            soundfile.read(
                io.BytesIO(base64.b64decode(a["src"].removeprefix("data:audio/flac;base64,"))), dtype="int16"
            )
            for a in self.all("audio")
        ]


STRANGE = '<b>&"x.wav'


@pytest.fixture(scope="module")
def folder(speech: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """one.wav (24 kHz, 16 bits), a/one.wav (48 kHz stereo, also under a strange name), bad.wav and silence.wav."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "a").mkdir()
    soundfile.write(folder / "one.wav", speech[0], RATE)
    stereo = resample(speech[1], RATE, 48_000)[:, None] * np.array([1, 0.5])
    for path in (folder / "a" / "one.wav", folder / STRANGE):
        soundfile.write(path, stereo, 48_000)
    (folder / "bad.wav").write_text("hello")
    soundfile.write(folder / "silence.wav", np.zeros(5000), RATE)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    """The report on one.wav and the file with the strange name, at two bandwidths and with an 8 kHz mel model."""
    models = [default_model(), DATA / "mel.onnx"]
    report(folder / "page.html", [folder / "one.wav", folder / STRANGE], models, bandwidths=[6, 1.5])
    return Page(folder / "page.html")


def test_the_page_is_self_contained(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "source")
        for name, value in attributes.items():
            if name in ("src", "href", "srcset", "poster", "data", "action"):
                assert value.startswith(("data:", "#")), (tag, name, value[:80])
            assert not name.startswith("on"), (tag, name)
    assert all("src" not in script for script in page.all("script"))
    assert "@import" not in page.text
    assert "url(" not in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_the_page_for_people_and_readers(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    assert "<title>Copy-synthesis of 2 recordings – vocos-onnx</title>" in page.text
    labels = ["Original", f"{default_model().stem}, 6 kbps", f"{default_model().stem}, 1.5 kbps", "mel, mels"]
    names = [f"{title}, {label}" for title in ("one.wav", STRANGE) for label in labels]
    assert [a["aria-label"] for a in page.all("audio")] == names
    assert [i["alt"] for i in page.all("img")] == [f"Spectrogram of {name}" for name in names]
    assert all("controls" in a and a["preload"] == "metadata" for a in page.all("audio"))
    anchors = {a["href"].removeprefix("#") for a in page.all("a")}
    assert anchors == {"clip-1", "clip-2"}
    assert anchors <= {attributes.get("id") for _, attributes in page.tags}


def test_names_are_escaped(page: Page) -> None:
    assert not page.all("b")
    assert "&lt;b&gt;&amp;&#34;x.wav" in page.text
    assert STRANGE not in page.text


def test_the_pictures_are_pictures(page: Page) -> None:
    from PIL import Image

    for image in page.all("img"):
        data = base64.b64decode(image["src"].removeprefix("data:image/webp;base64,"))
        assert len(data) > 1000
        assert Image.open(io.BytesIO(data)).size == (int(image["width"]), int(image["height"]))


def test_the_audio_is_the_recording_and_its_copies(page: Page, folder: Path) -> None:
    vocos, mel = VocosONNX(), VocosONNX(DATA / "mel.onnx")
    sounds = page.audio()
    assert len(sounds) == 8
    exact, _ = soundfile.read(folder / "one.wav", dtype="int16")
    for i, path in enumerate([folder / "one.wav", folder / STRANGE]):
        recording = load_audio(path, RATE)
        expected = [(recording, RATE)]
        expected += [(vocos(recording, RATE, bandwidth=kbps)[: len(recording)], RATE) for kbps in (6, 1.5)]
        expected += [(mel(load_audio(path, 8000), 8000), 8000)]
        for (samples, rate), (audio, audio_rate) in zip(sounds[4 * i : 4 * i + 4], expected, strict=True):
            assert rate == audio_rate
            assert samples.shape == audio.shape
            assert np.abs(samples - (audio * 32768).clip(-32768, 32767)).max() <= 1
    assert np.array_equal(sounds[0][0], exact)


def test_the_figures_are_those_of_the_metrics(page: Page, folder: Path) -> None:
    vocos = VocosONNX()
    mean, one, strange = page.tables
    assert [row[0] for row in one] == ["", "Original", default_model().stem, "6 kbps", "1.5 kbps", "mel", "mels"]
    recording = load_audio(folder / "one.wav", RATE)
    own = metrics.alone(recording, RATE)
    assert one[1][1:] == ["–"] * 3 + [f"{own[key]:.2f}" for key in ("ovrl", "p808", "harmonicity_1k")] + ["–"]
    copy = vocos(recording, RATE, bandwidth=6.0)[: len(recording)]
    figures = metrics.compare(recording, copy, RATE, RATE / vocos.hop_length)
    expected = [f"{figures['pesq_wb']:.2f}", f"{figures['stoi']:.3f}", f"{figures['mel_distance']:.3f}"]
    expected += [f"{figures[key]:.2f}" for key in ("ovrl", "p808", "harmonicity_1k")]
    assert one[3][1:] == [*expected, f"{figures['line']:.1f}"]
    for row, first, second in zip(mean[3:5], one[3:5], strange[3:5], strict=True):
        for middle, left, right in zip(row[1:], first[1:], second[1:], strict=True):
            assert float(middle) == pytest.approx((float(left) + float(right)) / 2, abs=0.101)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Work in the folder, without the slow networks of DNSMOS."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(metrics, "dnsmos", lambda audio, rate: {"ovrl": 3.0})
    for path in folder.glob("*.html"):
        if path.name != "page.html":
            path.unlink()


def run(*args: object) -> int:
    return main(["report", *map(str, args), "--bandwidths", "6"])


def test_a_bad_file_does_not_keep_the_others(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("out.html", "--inputs", "bad.wav", "one.wav", "no.wav", "a/one.wav") == 2
    captured = capsys.readouterr()
    assert re.fullmatch(r"wrote out.html: 2 of 4 files, \d\.\d MB\n", captured.out)
    first, done, second, also_done, last = captured.err.splitlines()
    assert "cannot read bad.wav as audio" in first
    assert done == "vocos-onnx: 2 of 4: one.wav is measured"
    assert also_done == "vocos-onnx: 4 of 4: a/one.wav is measured"
    assert "no audio file no.wav" in second
    assert last == "vocos-onnx: error: 2 of 4 files failed"
    titles = [a["aria-label"].split(",")[0] for a in Page(Path("out.html")).all("audio")]
    assert titles == [*["one.wav"] * 3, *["a/one.wav"] * 3]  # the whole path, since the names are equal


def test_no_good_file_and_no_page(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("out.html", "--inputs", "bad.wav") == 2
    assert run("out.html", "--inputs", "bad.wav", "no.wav") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 4
    assert "none of the 2 inputs could be done, and out.html is not written" in captured.err
    assert not Path("out.html").exists()


def test_from_python_a_bad_file_is_an_error_unless_it_is_asked_for(quick: None) -> None:
    with pytest.raises(ValueError, match=r"cannot read bad.wav as audio"):
        report("out.html", ["one.wav", "bad.wav"], bandwidths=[6])
    assert not Path("out.html").exists()
    errors: list[Any] = []
    steps: list[Any] = []
    report(
        "out.html",
        ["bad.wav", "one.wav"],
        bandwidths=[1.5, 6],
        progress=lambda *step: steps.append(step),
        on_error=errors.append,
    )
    assert len(errors) == 1
    assert steps == [(0, 0, 3), (1, 0, 3), (1, 1, 3), (1, 2, 3), (1, 3, 3)]
    assert "Copy-synthesis of 1 recording –" in Path("out.html").read_text(encoding="utf-8")


def test_silence_has_no_figures(folder: Path, tmp_path: Path) -> None:
    report(tmp_path / "out.html", [folder / "silence.wav"], bandwidths=[6])
    (table,) = Page(tmp_path / "out.html").tables
    assert table[1] == ["Original", *"–––––––"]
    assert table[3][:4] == ["6 kbps", *"–––"]  # a codec need not decode silence to silence


@pytest.mark.parametrize(
    ("name", "title"),
    [
        (b"</script><script>alert(1)</script>.wav", "</script><script>alert(1)</script>.wav"),
        (b"\"'> onplay=alert(1) x='.wav", "\"'> onplay=alert(1) x='.wav"),
        (b"{{ 7 * 7 }}{% raw %}{# x #}.wav", "{{ 7 * 7 }}{% raw %}{# x #}.wav"),
        (b"&lt;b&gt;.wav", "&lt;b&gt;.wav"),
        (b"tab\tbell\x07line\nescape\x1b[2J\x7f.wav", r"tab\tbell\x07line\nescape\x1b[2J\x7f.wav"),
        (b"caf\xe9.wav", r"caf\xe9.wav"),  # not UTF-8: a surrogate in Python's str
        ("cafe\u0301 \u202egpj.wav".encode(), "cafe\u0301 \\u202egpj.wav"),  # would display the rest reversed
        ("日本語 🎧.wav".encode(), "日本語 🎧.wav"),
    ],
)
def test_hostile_names(quick: None, folder: Path, name: bytes, title: str) -> None:
    inputs = [Path(os.fsdecode(name))]
    if inputs[0].name != str(inputs[0]):  # for two files of one name, the whole path is shown
        inputs.append(Path("a") / inputs[0].name)
    for path in inputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((folder / "silence.wav").read_bytes())
    report("out.html", inputs, [DATA / "mel.onnx"])
    page = Page(Path("out.html"))
    assert [a["aria-label"] for a in page.all("audio")][:2] == [f"{title}, Original", f"{title}, mel, mels"]
    assert page.all("img")[0]["alt"] == f"Spectrogram of {title}, Original"
    assert page.headings[len(inputs) - 1] == f"{title} 0.21 s"
    assert page.all("script") == [{}]
    assert all(set(a) == {"controls", "preload", "src", "aria-label"} for a in page.all("audio"))
    assert not re.search(r"[^\n\x20-\x7e\xa0-\U0010ffff]", page.text)


def test_many_players_open_when_they_are_started(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "MAX_OPEN_PLAYERS", 3)
    assert run("out.html", "--inputs", "one.wav", "a/one.wav") == 0
    assert {a["preload"] for a in Page(Path("out.html")).all("audio")} == {"none"}


def test_a_failed_write_leaves_the_old_page(
    quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out.html").write_text("old")

    def full_disk(*args: Any, **kwargs: Any) -> Never:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    assert run("out.html", "--inputs", "one.wav") == 2
    assert "out.html exists, and is only replaced if you ask for that" in capsys.readouterr().err
    assert run("out.html", "--inputs", "one.wav", "--force") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert Path("out.html").read_text() == "old"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["out.txt", "--inputs", "one.wav"], "'out.txt' does not end in .html, the kind of file that a report is"),
        (["nowhere/o.html", "--inputs", "one.wav"], "no folder nowhere to write o.html to; create it first"),
        (["o.html", "--inputs", "one.wav", "--bandwidths", "5"], "bandwidth is 5.0, expected one of 1.5, 3, 6, 12"),
        (["o.html", "--inputs", "one.wav", "--model", "no.onnx"], "no model file no.onnx"),
        (["o.html", "--inputs", "one.wav", "--threads", "0"], "threads is 0, expected an integer of 1 or more"),
        (
            ["o.html", "--inputs", "one.wav", "--encoder", DATA / "encoder.onnx"],
            "has the codebooks of none of the models",
        ),
        (
            ["o.html", "--inputs", "one.wav", "--model", DATA / "encodec.onnx"],
            "audio to tokens of encodec_24khz needs its encoder",
        ),
        (
            ["o.html", "--inputs", "one.wav", "--model", DATA / "mel.onnx", "--bandwidths", "6"],
            "bandwidths are given, but all models are mel models",
        ),
    ],
)
def test_bad_arguments(quick: None, capsys: pytest.CaptureFixture[str], args: Any, message: str) -> None:
    before = sorted(Path().iterdir())
    assert main(["report", *map(str, args)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(Path().iterdir()) == before


def test_an_encoder_goes_to_the_models_with_its_codebooks(quick: None) -> None:
    models = [DATA / "encodec.onnx", default_model()]
    systems = open_systems(models, DATA / "encoder.onnx", [1.5])
    assert [(system.model, system.encoder is not None) for system in systems] == [
        ("encodec", True),
        (default_model().stem, False),
    ]


@pytest.mark.parametrize("package", ["jinja2", "matplotlib.figure"])
def test_without_a_package_of_the_page(
    quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert run("out.html", "--inputs", "one.wav") == 2
    assert f"need {package}: pip install 'vocos-onnx[report]'" in capsys.readouterr().err
    assert not Path("out.html").exists()


def test_the_card(speech: list[np.ndarray], tmp_path: Path) -> None:
    """The card has all its tables, and its token file names the codec and the source."""
    soundfile.write(tmp_path / "speech_one.wav", speech[0], RATE)
    row = "speech_one.wav,English,Someone,CC0 1.0 (https://example.org)"
    (tmp_path / "index.csv").write_text(f"file,description,attribution,licence\n{row}\n", encoding="utf-8")
    models = ["--models", default_model().parent]
    arguments = [*models, "--clips", tmp_path, "--tokens", tmp_path, "--clip", "speech_one.wav"]
    command = [sys.executable, "-m", "vocos_onnx.evaluate.card", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "| clip | 1.5 kbps | 3 kbps | 6 kbps | 12 kbps | vocos-mel-24khz-small |"
    assert lines[2].startswith("| speech_one | ")
    assert lines[3].replace("*", "") == lines[2].replace("speech_one", "mean of 1")
    systems = lines[0].strip("| ").split(" | ")[1:]
    tables = [block.splitlines() for block in done.stdout.strip().split("\n\n")[1:]]
    assert ["DNSMOS P.808" in tables[0][0], "line at the frame rate" in tables[1][0]] == [True, True]
    assert tables[2][0].startswith("| level error | 440 Hz, dB | 3 kHz, dB | sweep, dB | silence, dBFS | ")
    for table, rows in zip(tables, (["recording", *systems], ["recording", *systems], systems), strict=True):
        assert [line.strip("| ").split(" | ")[0] for line in table[2:]] == rows
        assert all(line.count("|") == table[0].count("|") for line in table)
    encoder = EncodecONNX()
    tokens = load_tokens(tmp_path / "speech_one.npz")
    assert tokens == Tokens(
        encoder.encode(load_audio(tmp_path / "speech_one.wav", RATE), RATE, 12),
        sample_rate=RATE,
        codec=encoder.config.codec,
        codebooks_sha256=encoder.config.codebooks_sha256[15],
    )
    with np.load(tmp_path / "speech_one.npz") as archive:
        assert str(archive["source"]) == "English; Someone, CC0 1.0"
        assert archive["tokens"].dtype == np.int16
