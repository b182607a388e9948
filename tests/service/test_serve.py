"""Tests of vocos-onnx serve: what each route answers in each format, and the status of each refusal."""

from __future__ import annotations

import asyncio
import gzip
import io
import itertools
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile
from starlette.routing import Route

from tests.helpers import DATA
from tests.service.process import INSTALLED, Answer, Server, request, rest
from tests.service.test_server import SERVE, TOKENS, archive, file, header, npy, npz, same
from vocos_onnx import EncodecONNX, VocosONNX, load_audio, load_tokens, save_tokens
from vocos_onnx.cli import main
from vocos_onnx.io.tokens import Tokens
from vocos_onnx.mels import CONVENTIONS
from vocos_onnx.model.bundled import BUNDLED_CODEC, CODEC, MEL, find_model
from vocos_onnx.serve.app import create_app, routes
from vocos_onnx.serve.metrics import METHODS
from vocos_onnx.serve.models import Models, NotLoadedError, UnknownModelError
from vocos_onnx.serve.openapi import description
from vocos_onnx.serve.settings import Settings, Source, parse_models
from vocos_onnx.serve.wording import for_clients

TONE = (0.3 * np.sin(np.arange(48_000) / 30)).astype(np.float32)
MP3 = file(TONE, 24_000, "MP3", "MPEG_LAYER_III")
TOKEN = "s3cret/token+of=="


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the bundled models, one of another codec, and one that cannot be loaded."""
    broken = tmp_path_factory.mktemp("models") / "broken.onnx"
    broken.write_bytes(file(TONE))
    models = [CODEC, MEL, f"tiny={DATA / 'encodec.onnx'}", f"broken={broken}"]
    with Server(*SERVE, *(word for model in models for word in ("--model", model)), OMP_NUM_THREADS="1") as running:
        yield running


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """A server that requires a token, and lets the pages of one other site use it."""
    with Server(*SERVE, "--cors", "https://example.org", VOCOS_TOKEN=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def vocos() -> VocosONNX:
    return VocosONNX(threads=1)


@pytest.fixture(scope="module")
def mel() -> VocosONNX:
    return VocosONNX(MEL, threads=1)


def read(answer: Answer) -> np.ndarray:
    assert answer.status == 200, answer.raw[:300]
    audio: np.ndarray = load_audio(io.BytesIO(answer.body), 24_000)
    return audio


def close(given: np.ndarray, wanted: np.ndarray, most: float = 2 / 32768) -> None:
    assert given.shape == wanted.shape
    assert np.abs(given - wanted.clip(-1, 1)).max() <= most


# Formats


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize(("format", "media"), [("wav", "audio/wav"), ("flac", "audio/flac"), ("opus", "audio/ogg")])
def test_formats(server: Server, vocos: VocosONNX, format: str, media: str, stream: str) -> None:
    answer = server.ask(f"/v1/decode?format={format}&stream={stream}", npy(TOKENS))
    expected = vocos.decode(TOKENS)
    assert answer.headers["content-type"] == media
    given = read(answer)
    if format == "opus":  # lossy
        assert given.shape == expected.shape
    else:
        close(given, expected)
    assert answer.headers["x-vocos-model"] == CODEC
    assert float(answer.headers["x-vocos-seconds"]) == pytest.approx(len(expected) / 24_000, abs=1e-4)
    is_whole = stream == "false"
    assert ("content-length" in answer.headers) == is_whole == ("x-vocos-compute-ms" in answer.headers)
    assert (answer.headers.get("transfer-encoding") == "chunked") == (not is_whole)
    if is_whole:
        assert answer.headers["server-timing"] == f"compute;dur={answer.headers['x-vocos-compute-ms']}"
        assert soundfile.info(io.BytesIO(answer.body)).frames == len(expected)  # the header is complete


def test_opus_is_the_same_audio(server: Server, vocos: VocosONNX) -> None:
    """Compares spectra, since Opus preserves no samples."""
    tokens = np.asarray(load_demo())[:, :300]
    given = read(server.ask("/v1/decode?format=opus", npy(tokens)))
    expected = vocos.decode(tokens)

    def bands(audio: np.ndarray) -> np.ndarray:
        spectra = np.abs(np.fft.rfft(audio[: len(audio) // 480 * 480].reshape(-1, 480)))
        return np.log(spectra.reshape(len(spectra), -1)[:, :80].mean(axis=1) + 1e-2)

    assert np.corrcoef(bands(given), bands(expected))[0, 1] > 0.95


def load_demo() -> Any:
    from vocos_onnx import demo_tokens

    return demo_tokens()


def test_pcm(server: Server, vocos: VocosONNX) -> None:
    for stream in ("", "&stream=true"):
        answer = server.ask(f"/v1/decode?format=pcm{stream}", npy(TOKENS))
        assert answer.headers["content-type"] == "audio/pcm;rate=24000;channels=1;encoding=s16le"
        close(np.frombuffer(answer.body, "<i2") / 32768, vocos.decode(TOKENS))


def test_streamed_wav_has_the_header_of_ffmpeg(server: Server) -> None:
    body = server.ask("/v1/decode?stream=true", npy(TOKENS)).body
    assert body[4:8] == body[40:44] == b"\xff\xff\xff\xff"
    assert len(body) == 44 + 2 * 320 * TOKENS.shape[1]


ACCEPTED = {
    "*/*": "audio/wav",
    "audio/*": "audio/wav",
    "audio/flac": "audio/flac",
    "audio/x-flac, */*;q=0.1": "audio/flac",
    "application/json, text/plain, */*": "audio/wav",
    "audio/wav;q=0.2, audio/ogg;q=0.9, audio/flac;q=0.5": "audio/ogg",
    "audio/*;q=0.5, audio/wav;q=0": "audio/flac",
    "audio/opus": "audio/ogg",
    "AUDIO/FLAC": "audio/flac",
}


@pytest.mark.parametrize("accept", ACCEPTED)
def test_accept(server: Server, accept: str) -> None:
    answer = server.ask("/v1/decode", npy(TOKENS), f"Accept: {accept}")
    assert (answer.status, answer.headers["content-type"]) == (200, ACCEPTED[accept])


def test_format_goes_before_accept(server: Server) -> None:
    answer = server.ask("/v1/decode?format=wav", npy(TOKENS), "Accept: audio/flac")
    assert answer.headers["content-type"] == "audio/wav"
    answer = server.ask("/v1/decode", npy(TOKENS), "Accept: image/png")
    assert answer.status == 406
    assert answer.json()["error"] == (
        "the header Accept is 'image/png', expected some of audio/wav, audio/flac, audio/ogg, audio/pcm: send one of "
        "these, or name a format in the query, as format=wav (one of wav, flac, opus, pcm)"
    )


# Kinds of input


def test_mels(server: Server, mel: VocosONNX) -> None:
    mels = mel.features(TONE, 24_000)
    expected = mel.decode(mels)
    for body in (npy(mels), npy(mels.astype(np.float64)), npz(mels=mels)):
        same(server.ask(f"/v1/decode?model={MEL}", body), expected)
    text = json.dumps({"mels": mels[:, :60].astype(float).round(4).tolist()}).encode()
    close(read(server.ask(f"/v1/decode?model={MEL}", text)), mel.decode(mels[:, :60].round(4)), 1e-3)
    log10 = mels.T / np.log(10)
    answer = server.ask(f"/v1/decode?model={MEL}&mels_from=mlx&stream=true", npy(log10.astype(np.float32)))
    if CONVENTIONS["mlx"].axes == "btc":
        assert answer.status == 200 or "bands" in answer.json()["error"]
    zipvoice = server.ask(f"/v1/decode?model={MEL}&mels_from=zipvoice", npy(mels.T * np.float32(0.1)))
    close(read(zipvoice), mel.decode(mels.T * np.float32(0.1), mels_from="zipvoice"))
    rows = json.dumps({"mels": (mels.T[:200] * 0.1).astype(float).round(5).tolist()}).encode()
    assert server.ask(f"/v1/decode?model={MEL}&mels_from=zipvoice", rows).status == 200


def test_long_mels_in_blocks(server: Server, mel: VocosONNX) -> None:
    mels = np.tile(mel.features(TONE, 24_000), (1, 10))[:, :1700]
    close(read(server.ask(f"/v1/decode?model={MEL}", npy(mels))), mel.decode(mels), 1e-3)


def test_recording_to_tokens(server: Server, tmp_path: Path) -> None:
    encoder = EncodecONNX(threads=1)
    data = file(TONE, kind="FLAC")
    audio = load_audio(io.BytesIO(data), 24_000)
    for query, bandwidth in (("", 6.0), ("?bandwidth=1.5", 1.5), ("?format=npz&bandwidth=12", 12.0)):
        answer = server.ask(f"/v1/encode{query}", data)
        assert answer.headers["content-type"] == "application/x-npz"
        (tmp_path / "t.npz").write_bytes(answer.body)
        tokens = load_tokens(tmp_path / "t.npz")
        np.testing.assert_array_equal(tokens.codes, encoder.encode(audio, 24_000, bandwidth))
        save_tokens(tmp_path / "own.npz", tokens.codes, encoder, samples=len(audio))
        assert tokens == load_tokens(tmp_path / "own.npz")
    for answer in (
        server.ask("/v1/encode?format=json", data),
        server.ask("/v1/encode", data, "Accept: application/json"),
    ):
        given = answer.json()
        np.testing.assert_array_equal(given["tokens"], encoder.encode(audio, 24_000))
        assert given["samples"] == len(audio) and given["codec"] == "vocos_onnx_24khz"
        again = server.ask("/v1/decode", answer.body, "Content-Type: application/json")
        assert again.status == 200
    assert float(answer.headers["x-vocos-seconds"]) == 2


@pytest.mark.parametrize("query", ["", "&stream=true&format=flac"])
@pytest.mark.parametrize("model", [CODEC, MEL])
def test_recording_through_a_model(server: Server, model: str, query: str) -> None:
    vocos, data = VocosONNX(model, threads=1), file(TONE)
    given = read(server.ask(f"/v1/resynth?model={model}{query}", data))
    expected = vocos(load_audio(io.BytesIO(data), 24_000), 24_000)[: len(TONE)]
    assert len(given) == len(expected)
    close(given, expected, 1e-3)


def test_bandwidth_takes_the_first_codebooks(server: Server, vocos: VocosONNX) -> None:
    tokens = np.random.default_rng(1).integers(1024, size=(16, 100))
    same(server.ask("/v1/decode?bandwidth=3", npy(tokens)), vocos.decode(tokens[:4]))
    same(server.ask("/v1/decode?bandwidth_id=1", npy(tokens[:4])), vocos.decode(tokens[:4]))
    same(server.ask(f"/v1/decode?model={CODEC}", npy(tokens)), vocos.decode(tokens))


def test_axes_of_one_around_a_recording(server: Server, vocos: VocosONNX, mel: VocosONNX) -> None:
    """The shapes of encodec, transformers and upstream Vocos, which load_tokens reads too."""
    expected = vocos.decode(TOKENS)
    for tokens in (TOKENS[None], TOKENS[:, None], TOKENS[None, None]):
        same(server.ask("/v1/decode", npy(tokens)), expected)
        same(server.ask("/v1/decode", npy(np.asfortranarray(tokens))), expected)
        same(server.ask("/v1/decode", npz(tokens=tokens)), expected)
    for nested in ([TOKENS.tolist()], [[TOKENS.tolist()]]):
        same(server.ask("/v1/decode", json.dumps({"tokens": nested}).encode()), expected)
    mels = mel.features(TONE, 24_000)
    same(server.ask(f"/v1/decode?model={MEL}", npy(mels[None])), mel.decode(mels))


def test_one_of_several_arrays(server: Server, vocos: VocosONNX) -> None:
    body = npz(one=TOKENS, two=TOKENS[:4])
    same(server.ask("/v1/decode?key=two", body), vocos.decode(TOKENS[:4]))
    assert "choose one with key=NAME in the query" in server.ask("/v1/decode", body).json()["error"]


def test_tokens_that_name_no_codec_are_remarked_on(server: Server, vocos: VocosONNX) -> None:
    named = io.BytesIO()
    save_tokens(named, TOKENS, vocos)
    for query in ("", "?stream=true"):
        warned = server.ask(f"/v1/decode{query}", npy(TOKENS))
        assert warned.headers["x-vocos-warning"] == (
            "the body names no codec, and is decoded as tokens of vocos_onnx_24khz; if they are EnCodec's (Bark, "
            "VALL-E and the like), decode them with the model charactr/vocos-encodec-24khz"
        )
        assert "x-vocos-warning" not in server.ask(f"/v1/decode{query}", named.getvalue()).headers
    assert "x-vocos-warning" not in server.ask(f"/v1/decode?model={MEL}", npy(np.zeros((100, 3), np.float32))).headers


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_the_recording_of_a_client_that_leaves_is_closed(server: Server) -> None:
    """The client disconnects in the middle of a streamed answer. The file has no name: it exists while it is open."""

    def opened() -> list[str]:
        targets = []
        for one in Path(f"/proc/{server.process.pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                targets.append(str(one.readlink()))
        return [target for target in targets if target.endswith("(deleted)")]

    before = opened()  # the log
    recording = file(np.random.default_rng(0).uniform(-0.1, 0.1, 24_000 * 40).astype(np.float32))
    for _ in range(5):
        with server.connect(request("/v1/resynth?stream=true&format=flac", recording)) as plug:
            assert plug.recv(100)
    end = time.monotonic() + 20
    while opened() != before and time.monotonic() < end:
        time.sleep(0.05)
    assert opened() == before


def test_a_fault_behind_the_first_audio_is_the_clients() -> None:
    """In a streamed answer it cuts the connection, and the log has the reason but no failure of the service.

    Tokens and mels are checked before the first audio.
    """
    damaged = np.full(24_000 * 60, 0.1, np.float32)
    damaged[-1000] = np.nan
    wrong, mels = np.resize(TOKENS, (8, 900)), np.full((100, 900), -5, np.float32)
    wrong[3, 800], mels[7, 800] = 1024, np.inf
    with Server(*SERVE, OMP_NUM_THREADS="1") as server:
        body = file(damaged, subtype="FLOAT")
        assert server.ask("/v1/resynth", body).status == 400
        answer = server.ask("/v1/resynth?stream=true&format=pcm", body)
        assert answer.status == 200 and not answer.raw.endswith(b"0\r\n\r\n")
        answer = server.ask("/v1/decode?stream=true", npy(wrong))
        assert answer.status == 400
        assert "the value 1024 (in codebook 3, frame 800, counted from 0), expected 0 to 1023" in answer.json()["error"]
        answer = server.ask(f"/v1/decode?stream=true&model={MEL}", npy(mels))
        assert answer.status == 400 and "the first in row 7 at position 800, counted from 0" in answer.json()["error"]
        assert server.ask("/v1/decode", npy(TOKENS)).status == 200
        lines = server.stop(signal.SIGTERM)[2].splitlines()
    cut = [line.partition(" is cut off after its first audio: ") for line in lines if "cut off" in line]
    assert [start.rpartition(" ")[2] for start, _, _ in cut] == ["/v1/resynth"]
    assert "NaN or infinity, first at sample 1439000" in cut[0][2]
    assert not any("failed" in line or "Traceback" in line for line in lines)


# Refusals
REFUSED = {
    "a batch": ("/v1/decode", npy(np.stack([TOKENS] * 2)), 400, "send the items of a batch one by one"),
    "a batch in JSON": ("/v1/decode", b'{"tokens": [[[1], [2]], [[3], [4]]]}', 400, "items of a batch one by one"),
    "frames before codebooks": (
        "/v1/decode?bandwidth=6",
        npy(np.zeros((600, 8), int)),
        400,
        "codebooks, and vocos-codec-24khz decodes 16 at most; where they are (frames, codebooks) send them transposed",
    ),
    "samples of another rate": (
        "/v1/decode",
        json.dumps({"tokens": TOKENS.tolist(), "samples": 640, "sample_rate": 48_000}).encode(),
        400,
        "sample_rate is 48000, and the samples of these tokens are counted at 24000 Hz",
    ),
    "too many channels of too high a rate": (
        "/v1/resynth",
        file(np.zeros((1000, 32), np.float32), 96_000),
        400,
        "32 channels at 96000 Hz, expected at most 16 channels at this rate, or 50000 Hz with",
    ),
    "no frames": ("/v1/decode", npy(TOKENS[:, :0]), 400, "the array is empty, with shape (8, 0)"),
    "rows of two lengths": (
        "/v1/decode",
        b'{"tokens": [[1, 2], [3, 4], [5]]}',
        400,
        "row 2 has 1 numbers, and row 0 has 2",
    ),
    "an empty body": (
        "/v1/resynth",
        b"",
        400,
        "expected a recording: send the file itself as the body, as with curl --",
    ),
    "null": ("/v1/decode", b"null", 400, "none of .npz, .npy and JSON"),
    "null for tokens": ("/v1/decode", b'{"tokens": null}', 400, "tokens is null, expected a list of equal length"),
    "null for a row": ("/v1/decode", b'{"tokens": [[1], null]}', 400, "row 1 is null, expected a list"),
    "null for a token": (
        "/v1/decode",
        b'{"tokens": [[1, 2], [3, null]]}',
        400,
        "row 1 has null at position 1, both counted from 0, expected integers alone",
    ),
    "a whole number with a point": (
        "/v1/decode",
        b'{"tokens": [[1, 2], [3.0, 4]]}',
        400,
        "row 1 has 3.0 at position 0, both counted from 0, expected integers alone: write it without a point",
    ),
    "NaN for a token": ("/v1/decode", b'{"tokens": [[1, NaN]]}', 400, "row 0 has NaN at position 1"),
    "a token beyond 64 bits": (
        "/v1/decode",
        b'{"tokens": [[1, 99999999999999999999]]}',
        400,
        "row 0 has 99999999999999999999 at position 1, both counted from 0, expected integers of up to 64 bits",
    ),
    "a token out of range": (
        "/v1/decode",
        npy(np.where(np.arange(1600).reshape(8, 200) == 777, 1024, 1)),
        400,
        "the value 1024 (in codebook 3, frame 177, counted from 0), expected 0 to 1023",
    ),
    "JSON nested too deeply": (  # for Python up to 3.12's parser; later ones go deeper, and the lists are refused
        "/v1/decode",
        b'{"tokens": ' + b"[" * 1000 + b"]" * 1000 + b"}",
        400,
        'expected {"tokens": [[...], ...]}',
    ),
    "JSON of Latin-1": ("/v1/decode", b'{"tokens": [[1]], "codec": "\xff"}', 400, "byte 28 is no UTF-8"),
    "an archive that is cut off": ("/v1/decode", npz(tokens=TOKENS)[:300], 400, "truncated or damaged; send the file"),
    "objects of Python": ("/v1/decode", npz(tokens=[None]), 400, "Python objects, which are never loaded"),
    "many channels": (
        "/v1/resynth",
        file(np.zeros((99, 40)), subtype="PCM_U8"),
        400,
        "40 channels, expected at most 32",
    ),
    "one axis": ("/v1/decode", npy(TOKENS[0]), 400, "one codebook is sent as (1, 200), and one frame as (200, 1)"),
    "a key of no .npz": ("/v1/decode?key=a", npy(TOKENS), 400, "the body is no .npz"),
    "a key that is not there": ("/v1/decode?key=c", npz(a=TOKENS, b=TOKENS), 400, "it has no array 'c'"),
    "both bandwidths": ("/v1/decode?bandwidth=3&bandwidth_id=1", npy(TOKENS), 400, "give one of the two"),
    "no such bandwidth": ("/v1/decode?bandwidth=5", npy(TOKENS), 400, "one of 1.5, 3, 6, 12"),
    "too few codebooks": ("/v1/decode?bandwidth=12", npy(TOKENS), 400, "8 codebooks, but 12 kbps needs 16"),
    "a bandwidth of mels": (f"/v1/decode?model={MEL}&bandwidth=6", npy(TOKENS), 400, "mel model"),
    "a bandwidth of mels again": (f"/v1/resynth?model={MEL}&bandwidth=6", file(TONE), 400, "mel model"),
    "tokens for a mel model": (f"/v1/decode?model={MEL}", npy(TOKENS), 400, ""),
    "mels for a codec": ("/v1/decode", b'{"mels": [[0.5, 1.5]]}', 400, "decodes tokens of vocos_onnx_24khz"),
    "tokens and mels": ("/v1/decode", b'{"mels": [[1]], "tokens": [[1]]}', 400, "expected"),
    "mels of texts": (f"/v1/decode?model={MEL}", b'{"mels": [["a"]]}', 400, "numbers alone"),
    "mels of nan": (f"/v1/decode?model={MEL}", b'{"mels": [' + b"[NaN]," * 99 + b"[NaN]]}", 400, "NaN"),
    "mels beyond float32": (f"/v1/decode?model={MEL}", b'{"mels": [' + b"[1e99]," * 99 + b"[1e99]]}", 400, "infinite"),
    "mels of other bands": (f"/v1/decode?model={MEL}", npy(np.zeros((80, 60), np.float32)), 400, "100"),
    "decibels": (f"/v1/decode?model={MEL}", npy(np.linspace(-90, 30, 10000).reshape(100, 100)), 400, "decibels"),
    "a convention of tokens": ("/v1/decode?mels_from=f5", npy(TOKENS), 400, "leave it out"),
    "no such convention": (f"/v1/decode?model={MEL}&mels_from=x", npy(TOKENS), 400, "'f5'"),
    "no such format": ("/v1/decode?format=mp3", npy(TOKENS), 400, "wav, flac, opus, pcm"),
    "a format of tokens": ("/v1/encode?format=wav", file(TONE), 400, "npz, json"),
    "a stream that is neither": ("/v1/decode?stream=yes", npy(TOKENS), 400, "true or false"),
    "tokens of a mel model": (f"/v1/encode?model={MEL}", file(TONE), 400, "name a codec"),
    "a codec without an encoder": ("/v1/encode?model=tiny", file(TONE), 400, "--encoder tiny=facebook/encodec_24khz"),
    "through a codec without an encoder": (
        "/v1/resynth?model=tiny",
        file(TONE),
        400,
        "--encoder tiny=facebook/encodec_24khz",
    ),
    "no such model": ("/v1/decode?model=other", npy(TOKENS), 404, f"{CODEC}, {MEL}, tiny, broken"),
    "a path for a model": ("/v1/decode?model=/etc/passwd", npy(TOKENS), 404, "there is no model"),
    "an empty name": ("/v1/resynth?model=", file(TONE), 404, "there is no model ''"),
    "a parameter that is no one's": (
        "/v1/decode?bandwith=6",
        npy(TOKENS),
        400,
        "(did you mean bandwidth?), expected one of model",
    ),
    "a parameter of another route": (
        "/v1/encode?stream=1",
        file(TONE),
        400,
        "no parameter 'stream', expected one of model",
    ),
    "a parameter twice": ("/v1/resynth?format=wav&format=flac", file(TONE), 400, "format is given twice"),
    "a parameter of none": ("/v1/models?model=x", b"", 400, "'model', expected none"),
    "a parameter of the samples": ("/v1/samples?format=wav", b"", 400, "'format', expected none"),
    "a parameter of a sample": ("/v1/samples/speech_ja_css10_22k?format=flac", b"", 400, "'format', expected none"),
    "a key of the query": ("/v1/decode", b'{"tokens": [[1]], "bandwidth": 7}', 400, "/v1/decode?bandwidth=..."),
    "a key of no one": ("/v1/decode", b'{"tokens": [[1]], "sampels": 7}', 400, "(did you mean samples?)"),
    "a key of tokens": (f"/v1/decode?model={MEL}", b'{"mels": [[1]], "samples": 7}', 400, "expected mels"),
    "a key twice": ("/v1/decode", b'{"tokens": [[1]], "tokens": [[2]]}', 400, "'tokens' is there twice"),
    "a rate that is none": (
        "/v1/decode",
        b'{"tokens": [[1],[1]], "sample_rate": 0}',
        400,
        "sample_rate is 0, expected Hz",
    ),
    "tokens of another rate": (
        "/v1/decode",
        b'{"tokens": [[1],[1]], "codec": "vocos_onnx_24khz", "sample_rate": 16000}',
        400,
        "sample_rate is 16000",
    ),
    "codes": ("/v1/decode", b'{"codes": [[1]]}', 400, "it has the keys codes, expected "),
    "a mel": ("/v1/decode", b'{"mel": [[1]]}', 400, "did you mean mels?"),
    "a list": ("/v1/decode", b"[[1, 2], [3, 4]]", 400, "it is a list, expected {"),
    "a recording to decode": (
        "/v1/decode",
        file(TONE),
        400,
        "a RIFF file, such as .wav, expected tokens or mels; recordings are for /v1/resynth",
    ),
    "tokens to encode": ("/v1/encode", npy(TOKENS), 400, "tokens and mels are for /v1/decode"),
    "tokens in JSON to encode": (
        "/v1/encode",
        json.dumps({"tokens": TOKENS.tolist()}).encode(),
        400,
        "it is JSON, expected a recording",
    ),
    "a text to encode": (
        "/v1/encode",
        b"a text of more than a few letters, which is no recording",
        400,
        "ffmpeg -i IN OUT.wav",
    ),
    "the codebooks of no bandwidth": (
        "/v1/decode",
        npy(TOKENS[:3]),
        400,
        "3 codebooks, expected 2, 4, 8 or 16, as 1.5, 3, 6 or 12 kbps have: bandwidth=1.5 in",
    ),
    "one codebook": ("/v1/decode", npy(TOKENS[:1]), 400, "1 codebook, expected 2, 4, 8 or 16"),
    "tokens of frames": ("/v1/decode", npy(TOKENS.T), 400, "send them transposed"),
    "the codebooks of another bandwidth": (
        "/v1/decode?bandwidth_id=1",
        npy(TOKENS),
        400,
        "8 codebooks, and bandwidth_id 1 (3 kbps) has 4: leave bandwidth_id out, or give bandwidth_id=2",
    ),
    "a key of no UTF-8": ("/v1/decode", b'{"tokens": [[1]], "a\\ud800": 1}', 400, r"the key 'a\ud800'"),
    "keys of no UTF-8 alone": ("/v1/decode", b'{"a\\ud800": 1}', 400, r"it has the keys a\ud800, expected"),
    "a codec of no UTF-8": (
        "/v1/decode",
        b'{"tokens": [[1]], "codec": "\\ud800"}',
        400,
        r"codec is '\ud800', expected a",
    ),
    "a codec of two lines": ("/v1/decode", b'{"tokens": [[1]], "codec": "a\\n\\u001b"}', 400, r"codec is 'a\n\x1b', "),
    "no codec": ("/v1/decode", b'{"tokens": [[1]], "codec": ""}', 400, "codec is '', expected a name of up to 200"),
    "a fingerprint of no UTF-8": ("/v1/decode", b'{"tokens": [[1]], "codebooks_sha256": "\\udfff"}', 400, r"'\udfff'"),
    "an integer of 5,000 digits": (
        "/v1/decode",
        b'{"tokens": [[1' + b"0" * 5000 + b"]]}",
        400,
        "it has an integer of thousands of digits",
    ),
    "a mel of 400 digits": (
        f"/v1/decode?model={MEL}",
        b'{"mels": [[1' + b"0" * 400 + b"]]}",
        400,
        "expected numbers of up to 32 bits",
    ),
    "a shape of 3,900 digits": (
        "/v1/decode",
        header("(1" + "0" * 3900 + ", 8)"),
        400,
        "bits, 8), expected at most 1024",
    ),
    "a shape of 3,900 digits in an archive": (
        "/v1/decode",
        archive(header("(1" + "0" * 3900 + ", 8)")),
        400,
        "promises an integer of ",
    ),
    "an entry twice": (
        "/v1/decode",
        archive(npy(TOKENS), npy(TOKENS[:1])),
        400,
        "has the name 'tokens' more than once",
    ),
    "the first 20 bytes of an mp3": ("/v1/resynth", MP3[:20], 400, "no audio is found in it"),
    "a path with a slash": ("/v1/models/", b"", 404, "(did you mean /v1/models?)"),
    "another method": ("/v1/decode", b"", 405, "the method is 'GET', and /v1/decode takes POST"),
    "no such recording": ("/v1/samples/other", b"", 404, "there is no recording 'other', expected one of speech_"),
}


IN_PYTHON = re.compile(
    r"VocosONNX|MelConvention|tokens\[|\.T\b|numpy|layout|check=|_onnx\.|\bpass\b|in Python|features\(\)|--mels"
)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(server: Server, name: str) -> None:
    path, body, status, reason = REFUSED[name]
    answer = server.ask(path, body, method="POST" if body or "/re" in path else "GET")
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), answer.raw[:500]
    error = answer.json()["error"]
    assert reason in error
    assert not IN_PYTHON.search(error), error


def test_tokens_of_two_models(server: Server, tmp_path: Path) -> None:
    """Each model decodes its own tokens and refuses the other's."""
    tiny = VocosONNX(DATA / "encodec.onnx", threads=1)
    codes = np.zeros((tiny.num_codebooks, 20), int)
    save_tokens(tmp_path / "tiny.npz", codes, tiny)
    data = (tmp_path / "tiny.npz").read_bytes()
    assert server.ask("/v1/decode?model=tiny", data).status == 200
    answer = server.ask("/v1/decode", data)
    assert answer.status == 400 and "this model decodes those of vocos_onnx_24khz" in answer.json()["error"]
    assert answer.json()["error"].endswith(": ask for model=tiny")
    answer = server.ask(f"/v1/decode?model={MEL}&stream=true", data)
    assert answer.status == 400 and answer.json()["error"].endswith(": ask for model=tiny")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/decode", "text/html"),
        ("/v1/decode", "multipart/form-data; boundary=x"),
        ("/v1/decode", "audio/wav"),
        ("/v1/decode?stream=true", "image/png"),
        ("/v1/resynth", "application/json"),
        ("/v1/encode", "multipart/form-data; boundary=x"),
    ],
)
def test_content_types_of_other_kinds(server: Server, path: str, kind: str) -> None:
    answer = server.ask(path, npy(TOKENS), f"Content-Type: {kind}")
    assert answer.status == 415 and kind.partition(";")[0] in answer.json()["error"]


def test_bodies_that_are_compressed_as_a_whole(server: Server) -> None:
    for path, body in (("/v1/decode", npy(TOKENS)), ("/v1/resynth", file(TONE)), ("/v1/encode", file(TONE))):
        answer = server.ask(path, gzip.compress(body), "Content-Encoding: gzip")
        assert (answer.status, answer.headers["accept-encoding"]) == (415, "identity")
        assert "the content encoding is 'gzip', and bodies are not unpacked" in answer.json()["error"]
        assert server.ask(path, body, "Content-Encoding: identity").status == 200


@pytest.mark.parametrize(("path", "status"), [("/v1/decod", 404), ("/v1/decode/", 404), ("/v1/models", 405)])
def test_what_is_for_no_route_is_refused_before_its_body(server: Server, path: str, status: int) -> None:
    with server.connect(request(path, b"", "Expect: 100-continue", length=1000)) as plug:
        assert plug.recv(1000).startswith(b"HTTP/1.1 %d " % status)
    answer = server.ask(path, bytes(3_000_000))  # this client reads only after sending everything
    assert answer.status == status
    assert status == 404 or answer.headers["allow"] == "GET, HEAD"


def test_a_little_too_long(server: Server) -> None:
    """The reason gives enough digits to show a small excess."""
    with Server(*SERVE, "--max-seconds", "2", "--model", f"tiny={DATA / 'encodec.onnx'}") as short:
        answer = short.ask("/v1/decode", npy(np.zeros((2, 151), int)))
        assert "there are 2.02 s of audio, expected at most 2 (" in answer.json()["error"]


def test_content_types(server: Server) -> None:
    for kind in ("application/octet-stream", "application/x-www-form-urlencoded", "application/x-npy", ""):
        assert server.ask("/v1/decode", npy(TOKENS), f"Content-Type: {kind}").status == 200
    for kind in ("audio/wav", "audio/mpeg", "application/octet-stream", "application/ogg"):
        assert server.ask("/v1/encode", file(TONE), f"Content-Type: {kind}").status == 200
    answer = server.ask("/v1/decode", npy(TOKENS), "Content-Type: application/json")
    assert answer.status == 400 and "JSON" in answer.json()["error"]


def test_model_that_cannot_be_loaded(server: Server) -> None:
    for _ in range(2):  # the second request tries again
        answer = server.ask("/v1/decode?model=broken", npy(TOKENS))
        assert (answer.status, answer.headers["retry-after"]) == (503, "10")
        assert "cannot be loaded" in answer.json()["error"] and "/" not in answer.json()["error"]
    counted = server.ask("/metrics", method="GET").body.decode()
    assert int(float(sample(counted, 'vocos_model_loads_total{model="broken",result="failed"}'))) >= 2


def sample(text: str, name: str) -> str:
    """Returns the value of a metric."""
    return next(line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name))


# Descriptions of the service


def test_models(server: Server) -> None:
    assert server.ask("/v1/decode?model=tiny&bandwidth_id=0", npy(np.zeros((1, 9), int))).status in (200, 400)
    given = server.ask("/v1/models", method="GET").json()
    assert given["default"] == CODEC
    assert [model["name"] for model in given["models"]] == [CODEC, MEL, "tiny", "broken"]
    first = given["models"][0]
    assert first["loaded"] and first["kind"] == "tokens" and first["streamable"] and first["encodes"]
    assert first["bandwidths"] == [1.5, 3, 6, 12] and first["codebooks"] == [2, 4, 8, 16]
    assert (first["sample_rate"], first["hop_length"], first["channels"]) == (24_000, 320, None)
    assert given["models"][2]["loaded"] and not given["models"][2]["encodes"]
    with Server(*SERVE, "--model", f"tiny={DATA / 'encodec.onnx'}", "--model", MEL, "--model", CODEC) as other:
        _, mel, codec = other.ask("/v1/models", method="GET").json()["models"]
        assert (mel["loaded"], mel["kind"], mel["channels"], mel["sample_rate"]) == (False, "mels", 100, 24_000)
        known = [name for name, value in codec.items() if value is not None and name != "loaded"]
        assert {name: codec[name] for name in known} == {name: first[name] for name in known} and len(known) >= 9
    assert not given["models"][3]["loaded"] and given["models"][3]["kind"] is None


def test_metrics(server: Server) -> None:
    def value(name: str) -> float:
        return float(sample(server.ask("/metrics", method="GET").body.decode(), name))

    asked = 'vocos_requests_total{method="POST",route="/v1/decode",status="200"}'
    server.ask("/v1/decode", npy(TOKENS))
    before, seconds = value(asked), value('vocos_audio_seconds_total{route="/v1/decode"}')
    server.ask("/v1/decode?stream=true&format=opus", npy(TOKENS))
    assert value(asked) == before + 1
    made = value('vocos_audio_seconds_total{route="/v1/decode"}') - seconds
    assert made == pytest.approx(320 * TOKENS.shape[1] / 24_000)
    server.ask("/secret/secret", method="GET")
    server.say(b"SECRET /secret HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = server.ask("/metrics", method="GET")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.body.decode()
    assert "secret" not in text.lower()
    assert float(sample(text, 'vocos_requests_total{method="GET",route="other",status="404"}')) >= 1
    for name in (
        *("vocos_requests_in_progress", "vocos_calls_waiting", "vocos_held_bytes", "vocos_connections_open"),
        *("vocos_websockets_open", "vocos_streams_open", "process_resident_memory_bytes"),
        *("vocos_request_seconds_bucket", "vocos_compute_seconds_count"),
    ):
        assert float(sample(text, name)) >= 0
    methods = set(re.findall(r'vocos_requests_total{method="(\w+)"', text))
    assert methods <= {*METHODS, "other"} and "other" in methods


def templates() -> dict[str, set[str]]:
    """Returns the methods of each route."""
    found: dict[str, set[str]] = {}
    for route in routes():
        if isinstance(route, Route):
            path = "/page/{file}" if route.path.startswith("/page/") else route.path
            found[path] = {method.lower() for method in route.methods or ()} - {"head"}
    return found


def test_every_route_is_described_and_every_path_is_a_route() -> None:
    described = {path: set(item) for path, item in description()["paths"].items()}
    there = templates()
    of_the_page = {"/", "/page/{file}", "/v1/samples", "/v1/samples/{name}"}
    assert {path: described[path] for path in there} == there
    assert set(described) - set(there) <= of_the_page - set(there)


def test_every_parameter_is_read(server: Server) -> None:
    """A wrong value of any parameter is refused, and so is one that is not in the description."""
    for path, item in description()["paths"].items():
        for operation in (item[method] for method in item if method == "post"):
            body = npy(TOKENS) if path == "/v1/decode" else file(TONE)
            for parameter in operation["parameters"]:
                answer = server.ask(
                    f"{path}?model={MEL}&{parameter['name']}=%21".replace(f"model={MEL}&model", "model"), body
                )
                assert answer.status == (404 if parameter["name"] == "model" else 400), (path, parameter["name"])
            known = ", ".join(sorted(parameter["name"] for parameter in operation["parameters"]))
            reason = server.ask(f"{path}?other=x", body).json()["error"]
            assert ", ".join(sorted(reason.partition("expected one of ")[2].split(", "))) == known


def test_description_holds(server: Server, guarded: Server) -> None:
    """Its references resolve, and the routes answer as it describes."""
    document = server.ask("/openapi.json", method="GET").json()
    assert document == description()
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        node = document
        for part in reference.split("/"):
            node = node[part]
    names = [item[method]["operationId"] for item in document["paths"].values() for method in item]
    assert len(set(names)) == len(names)
    for path, item in document["paths"].items():
        for operation in item.values():
            declared = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path))
            assert {"403", "101" if path == "/v1/stream" else "200"} <= set(operation["responses"])

    def check(answer: Answer, path: str, method: str = "get") -> None:
        said = document["paths"][path][method]["responses"][str(answer.status)]
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in said["content"], (path, answer.status, kind)
        for name in said.get("headers", {}):
            if name == "Retry-After":
                assert name.lower() in answer.headers
        if kind == "application/json":
            schema = said["content"][kind]["schema"] | {"components": document["components"]}
            jsonschema.Draft202012Validator(schema).validate(answer.json())

    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/models"):
        check(server.ask(path, method="GET"), path)
    asked: list[tuple[str, bytes, tuple[str, ...]]] = [
        *((f"/v1/decode?format={name}", npy(TOKENS), ()) for name in ("wav", "flac", "opus", "pcm")),
        ("/v1/resynth", file(TONE), ()),
        ("/v1/encode?format=npz", file(TONE), ()),
        ("/v1/encode?format=json", file(TONE), ()),
        ("/v1/decode?model=x", npy(TOKENS), ()),
        ("/v1/decode", b"x", ()),
        ("/v1/decode", b"x", ("Content-Type: image/png",)),
        ("/v1/decode", b"x", ("Accept: image/png",)),
        ("/v1/decode", bytes(64_000_001), ()),
        ("/v1/decode?model=broken", npy(TOKENS), ()),
        ("/v1/decode", npy(TOKENS), ("Origin: https://example.com",)),
    ]
    for path, body, headers in asked:
        check(server.ask(path, body, *headers), path.partition("?")[0], "post")
    check(guarded.ask("/v1/decode", npy(TOKENS)), "/v1/decode", "post")
    check(guarded.ask("/v1/models", method="GET"), "/v1/models")
    own = guarded.ask("/openapi.json", b"", f"Authorization: Bearer {TOKEN}", method="GET").json()
    assert own["security"] == [{"token": []}] and own["paths"]["/healthz"]["get"]["security"] == []


# Access


def test_token(guarded: Server) -> None:
    right = f"Authorization: Bearer {TOKEN}"
    for path, method in (("/v1/models", "GET"), ("/metrics", "GET"), ("/openapi.json", "GET"), ("/v1/decode", "POST")):
        body = npy(TOKENS) if method == "POST" else b""
        answer = guarded.ask(path, body, method=method)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert 'needed: send the header "Authorization: Bearer TOKEN"' in answer.json()["error"]
        answer = guarded.ask(f"{path}?token={TOKEN}", body, method=method)
        assert answer.status == 401 and "it is not read from the address" in answer.json()["error"]
        for bare in (TOKEN, f"Token {TOKEN}"):
            answer = guarded.ask(path, body, f"Authorization: {bare}", method=method)
            assert answer.status == 401 and 'lacks the word "Bearer"' in answer.json()["error"]
        for wrong in ("Bearer x", "Bearer ", "bearer", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \xff"):
            data = request(path, body, "Connection: close", method=method)
            head, _, tail = data.partition(b"\r\n\r\n")
            given = head + b"\r\nAuthorization: " + wrong.encode("latin-1") + b"\r\n\r\n" + tail
            assert guarded.say(given).status == 401, wrong
        assert guarded.ask(path, body, right, right, method=method).status == 401  # two of them
        assert guarded.ask(path, body, right, method=method).status == 200
        assert guarded.ask(path, body, f"authorization: bearer   {TOKEN}", method=method).status == 200
    for path in ("/healthz", "/readyz"):
        assert guarded.ask(path, method="GET").status == 200
    assert guarded.ask("/", method="GET").status in (200, 404)


def test_token_is_asked_for_before_the_body_is_read(guarded: Server) -> None:
    with guarded.connect(request("/v1/decode", b"", "Expect: 100-continue", length=1000)) as plug:
        assert plug.recv(1000).startswith(b"HTTP/1.1 401")
    assert guarded.ask("/v1/decode", bytes(3_000_000)).status == 401  # even if the client sends everything first


def test_pages_of_other_sites(server: Server, guarded: Server) -> None:
    for origin in ("https://example.org", "null", "http://127.0.0.1:1"):
        answer = server.ask("/v1/decode", npy(TOKENS), f"Origin: {origin}")
        assert answer.status == 403 and "access-control-allow-origin" not in answer.headers
        assert f"pages of '{origin}' may not" in answer.json()["error"] and "Host" in answer.json()["error"]
    right = f"Authorization: Bearer {TOKEN}"
    for own in ("http://x", "http://x:80", "https://x", "HTTPS://X"):  # the Host is x
        assert guarded.ask("/v1/decode", npy(TOKENS), f"Origin: {own}", right).status == 200
        # without a token, on a loopback address: x may be a site's name that resolves to 127.0.0.1
        assert server.ask("/v1/decode", npy(TOKENS), f"Origin: {own}").status == 403
    assert guarded.ask("/v1/decode", npy(TOKENS), "Origin: http://x:81", right).status == 403
    for host in ("127.0.0.1", "localhost", "vocos.localhost", "[::1]"):
        own = f"http://{host}:{server.port}"
        headers = {"Origin": own, "Host": own.removeprefix("http://")}
        asked = urllib.request.Request(f"http://127.0.0.1:{server.port}/v1/decode", npy(TOKENS), headers)
        with urllib.request.urlopen(asked) as answer:
            assert answer.status == 200
    asking = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization, content-type"]
    site = "Origin: https://example.org"
    preflight = guarded.ask("/v1/decode", b"", site, *asking, method="OPTIONS")
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == "https://example.org"
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert guarded.ask("/v1/decode", b"", "Origin: https://a.b", *asking, method="OPTIONS").status == 403
    answer = guarded.ask("/v1/decode", npy(TOKENS), site, right)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "https://example.org")
    assert "X-Vocos-Seconds" in answer.headers["access-control-expose-headers"]
    refused = guarded.ask("/v1/decode", npy(TOKENS), site)  # that page may read the reason too
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, "https://example.org")


def test_any_site() -> None:
    with Server(*SERVE, "--cors", "*", "--model", f"tiny={DATA / 'encodec.onnx'}") as server:
        answer = server.ask("/v1/models", b"", "Origin: https://a.b", method="GET")
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "*")
        assert "pages of any site can use the service" in server.stop(signal.SIGTERM)[2]


# Startup and shutdown


def start(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command of a service that fails to start."""
    command = [sys.executable, *SERVE, *words]
    environment = {**os.environ, **INSTALLED, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


LARGE_BLOCKS = """
import resource
from vocos_onnx.serve.service import _return_large_blocks
def resident():
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * resource.getpagesize() >> 20
{call}
del (freed := [bytearray(30 << 20)])[:]  # from now on glibc would keep such blocks
one, two = bytearray(20 << 20), bytearray(20 << 20)
before = resident()
del one
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about its malloc")
@pytest.mark.parametrize(("call", "returned"), [("_return_large_blocks()", 20), ("", 0)])
def test_large_blocks_are_returned(call: str, returned: int) -> None:
    program = LARGE_BLOCKS.format(call=call)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert abs(int(done.stdout) - returned) <= 2


def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = start("--port", str(port))
    assert done.returncode == 2
    reason = f"cannot listen on 127.0.0.1, port {port}: Address already in use; name another one as --port N, or "
    assert done.stderr == f"vocos-onnx: error: {reason}--port 0 for any that is free\n"


WRONG_SETTINGS = {
    "an empty token": ([], {"VOCOS_TOKEN": ""}, "VOCOS_TOKEN"),
    "a token with a space": ([], {"VOCOS_TOKEN": "ab c"}, "(VOCOS_TOKEN) holds ' ' at character 3"),
    "no such file": (["--model", "nothing.onnx"], {}, "no model file nothing.onnx"),
    "no such encoder": (["--model", CODEC, "--encoder", "nothing.onnx"], {}, "no model file nothing.onnx"),
    "a name twice": (["--model", f"a={CODEC}", "--model", f"a={MEL}"], {}, "two models are called a"),
    "an encoder of none": (["--encoder", "b=x.onnx"], {}, "with the name of one of the models"),
    "a model without its option": (["m.onnx", "n.onnx"], {}, "with --model m.onnx --model n.onnx"),
    "a token as an option": (["--token", "x"], {}, "set the environment variable VOCOS_TOKEN"),
    "no body": (["--max-body", "0"], {}, "--max-body is 0 MB, expected 0.001 to "),
    "little memory": (["--memory", "0.5"], {}, "--memory is 0.5 MB, expected 1.04858 to "),
    "a port": (["--port", "70000"], {}, "--port is 70000, expected 0 to 65535"),
    "an origin": (["--cors", "example.org"], {}, "expected an origin such as https://example.org"),
    "int8 of a file": (
        ["--model", str(DATA / "mel.onnx"), "--int8"],
        {},
        "--int8 is given, and no model is of the hub",
    ),
    "no workers": (["--workers", "0"], {}, "--workers is 0, expected 1 to 1024"),
    "many streams": (["--streams", "1000"], {}, "expected 2000 of these or more"),
    "no host": (["--host", "no.such.host.invalid"], {}, "cannot listen on no.such.host.invalid"),
    "a length": (["--max-seconds", "nan"], {}, "not a number of seconds"),
}


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_wrong_settings(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words, environment, reason = WRONG_SETTINGS[name]
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    try:
        code = main(["serve", *words])
    except SystemExit as error:  # from argparse
        code = int(error.code or 0)
    assert code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("module", ["starlette", "uvicorn", "websockets", "prometheus_client"])
def test_without_the_extra(module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["serve"]) == 2
    assert f"serve needs {module}: pip install 'vocos-onnx[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--model", "{folder}/broken.onnx"], "the model broken cannot be loaded: {folder}/broken.onnx is audio (WAV)"),
        (
            ["--encoder", "{codec}", "--model", CODEC],
            f"the model {CODEC} cannot be loaded: {CODEC} is a vocoder, ",
        ),
        (["--provider", "foo"], f"the model {CODEC} cannot be loaded: provider 'foo' is not in this onnxruntime"),
        (["--model", "nobody/nothing"], "the model nobody/nothing cannot be loaded: "),
    ],
)
def test_default_model_that_cannot_be_loaded(tmp_path: Path, words: list[str], reason: str) -> None:
    """One line gives the reason, and no line before it announces the service."""
    (tmp_path / "broken.onnx").write_bytes(file(TONE))
    places = {"folder": str(tmp_path), "codec": str(find_model(CODEC))}
    done = start("--port", "0", *(word.format(**places) for word in words), HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert done.stderr.startswith(f"vocos-onnx: error: {reason.format(**places)}")
    assert done.stderr.count("\n") == 1


def test_start_and_end(tmp_path: Path) -> None:
    """It picks a free port and prints one line with the address; it ends with the exit code that shells use."""
    tiny = DATA / "encodec.onnx"
    command = [sys.executable, *SERVE, "--port", "0", "--model", f"a={tiny}", "--model", f"b={tiny}"]
    with subprocess.Popen([*command, "--access-log"], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            match = re.fullmatch(
                r"vocos-onnx: http://127\.0\.0\.1:(\d+) serves a \(default\), b; no bearer token required\n", line
            )
            assert match is not None, line
            with socket.create_connection(("127.0.0.1", int(match[1]))) as plug:
                plug.sendall(request("/healthz", b"", "Connection: close", method="GET"))
                assert Answer(rest(plug)).json() == {"status": "ok"}
            process.send_signal(signal.SIGTERM)
            said = process.stderr.read()
            assert process.wait(20) == 143
            assert re.fullmatch(r'vocos-onnx: 127\.0\.0\.1:\d+ - "GET /healthz HTTP/1\.1" 200\n', said), said
        finally:
            process.kill()


def test_other_machines_without_a_token() -> None:
    warned = "other machines can use the service"
    for environment, is_warned in (({}, True), ({"VOCOS_TOKEN": "x"}, False)):
        with Server(*SERVE, "--host", "0.0.0.0", "--model", f"a={DATA / 'encodec.onnx'}", **environment) as server:
            assert (warned in server.stop(signal.SIGTERM)[2]) == is_warned


def test_drain() -> None:
    """Running requests are finished; meanwhile new connections, even health checks, are refused."""
    tokens = npy(np.zeros((8, 75 * 300), np.int16))
    with Server(*SERVE, "--workers", "1", "--drain", "20") as server:
        busy = server.connect(request("/v1/decode", tokens))
        while not server.health()[1]["requests"]:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 20
        with pytest.raises(ConnectionRefusedError):
            while time.monotonic() < end:
                with suppress(ConnectionResetError):  # it was in the queue when the socket closed
                    server.connect().close()
        answer = Answer(rest(busy))
        assert answer.status == 200 and len(answer.body) == 44 + 2 * 320 * 75 * 300
        assert server.process.wait(20) == 143


def test_drain_is_bounded() -> None:
    tokens = npy(np.zeros((8, 75 * 300), np.int16))
    with Server(*SERVE, "--workers", "1", "--drain", "0.3") as server:
        plugs = [server.connect(request("/v1/decode", tokens)) for _ in range(8)]
        while server.health()[1]["requests"] < 8:
            time.sleep(0.01)
        code, took, said = server.stop(signal.SIGTERM)
        assert code == 143 and took < 8 and "Traceback" not in said
        for plug in plugs:
            plug.close()


def test_warnings_of_the_library_are_for_no_log(tmp_path: Path) -> None:
    """They give advice for Python callers, and here the client's input is right."""
    square = VocosONNX(MEL, threads=1).features(TONE, 24_000)[:, :100]
    cancels = file(np.stack([TONE, -TONE], axis=1))
    with Server(*SERVE, "--model", MEL) as server:
        assert server.ask("/v1/decode", npy(square)).status == 200
        assert server.ask("/v1/resynth", cancels).status == 200
        said = server.stop(signal.SIGTERM)[2]
    assert re.fullmatch(r"vocos-onnx: http://\S+ serves \S+ \(default\); no bearer token required\n", said), said


# Settings


def test_names_of_models(tmp_path: Path) -> None:
    assert [source.name for source in parse_models()] == [CODEC, MEL]
    given = ["own=a/b.onnx", "runs/last.onnx", "charactr/vocos-mel-24khz", CODEC]
    assert [source.name for source in parse_models(given)] == ["own", "last", "charactr/vocos-mel-24khz", CODEC]
    assert parse_models(["a=m.onnx"], ["e.onnx"]) == (Source("a", "m.onnx", "e.onnx"),)
    assert parse_models(["a=m", "b=n"], ["b=e"]) == (Source("a", "m"), Source("b", "n", "e"))
    odd = tmp_path / "x=y.onnx"
    odd.touch()
    assert parse_models([f"z={odd}"]) == (Source("z", str(odd)),)
    for wrong in (["../x/=y"], ["=m.onnx"], ["a b=m.onnx"], ["é=m.onnx"], ["a="]):
        with pytest.raises(ValueError):
            parse_models(wrong)


def test_state() -> None:
    async def states() -> list[str]:
        _, service = create_app(Settings(models=(Source("tiny", str(DATA / "encodec.onnx")),)))
        found = [service.state]
        await service.models.get()
        found.append(service.state)
        service.limits.working = service.limits.places
        found.append(service.state)
        service.ending = True
        return [*found, service.state]

    assert asyncio.run(states()) == ["loading", "ok", "full", "ending"]


def test_refusals_name_the_option() -> None:
    """Refusals by the bounds on all requests name the option that sets the bound."""

    async def refused(**bounds: int) -> tuple[int, str]:
        app, _ = create_app(Settings(models=(Source("tiny", str(DATA / "encodec.onnx")),)))
        for name, value in bounds.items():
            setattr(app, name, value)
        sent: list[Any] = []
        waiting = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if sent:
                await waiting.wait()
            return {"type": "http.request", "body": b"x" * 2000}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "path": "/v1/decode", "method": "POST", "query_string": b"", "headers": []}
        await app(scope, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])["error"]

    for bounds, status, option in (
        ({"places": 0}, 429, "--queue"),
        ({"max_body": 1000}, 413, "--max-body"),
        ({"memory": 1000}, 413, "--memory"),
        ({"held": 256_000_000}, 503, "--memory"),
    ):
        found, reason = asyncio.run(refused(**bounds))
        assert found == status and f"({option} of the service)" in reason, reason


def test_reasons_of_the_library_in_words_of_http(vocos: VocosONNX, mel: VocosONNX) -> None:
    """Tries everything that may be wrong with an array, with both kinds of model."""
    mels, names = np.full((100, 60), -5, np.float32), (CODEC, MEL)
    arrays: list[Any] = [
        *(mels, mels[:80], mels.T, mels.T[:, :80], -mels * 100, mels * np.nan, mels[:64], mels[:1], np.abs(mels)),
        *(np.linspace(-90, 30, 10_000).reshape(100, 100), np.zeros((128, 9)), mels[:, :0], mels * 0, mels / 1e3),
        *(TOKENS, TOKENS.T, TOKENS[:3], TOKENS[:1], TOKENS - 1, TOKENS + 1, TOKENS + 5000, TOKENS[:0], TOKENS[:, :9].T),
        *(
            np.zeros((20, 9), int),
            np.zeros((9, 8), int),
            Tokens(TOKENS, codec="other"),
            Tokens(TOKENS, sample_rate=8000),
        ),
        *(Tokens(TOKENS, codec=BUNDLED_CODEC, codebooks_sha256="ab" * 32), Tokens(TOKENS, 9, 8000, BUNDLED_CODEC)),
    ]
    refused = 0
    conventions: tuple[Any, ...] = (None, *CONVENTIONS, "other")
    for model in (vocos, mel):
        for array, mels_from in itertools.product(arrays, conventions):
            try:
                model.decode(array, mels_from=mels_from, check=True if model is mel else None)
            except ValueError as error:
                refused += 1
                reason = for_clients(str(error), names)
                assert not IN_PYTHON.search(reason), (str(error), reason)
    assert refused > 150


def test_a_model_is_loaded_once() -> None:
    async def loaded() -> None:
        tried: list[tuple[str, bool]] = []
        models = Models(
            Settings(models=(Source("a", "nothing.onnx"), Source("b", str(DATA / "encodec.onnx")))),
            lambda *one: tried.append(one),
        )
        first, *others = await asyncio.gather(*(models.get("b") for _ in range(5)))
        assert all(other is first for other in others) and tried == [("b", True)]
        for failure in await asyncio.gather(*(models.get() for _ in range(3)), return_exceptions=True):
            assert isinstance(failure, NotLoadedError) and "nothing.onnx" not in str(failure)
        with pytest.raises(NotLoadedError):
            await models.get("a")  # tries again
        assert tried[1:] == [("a", False)] * 2
        with pytest.raises(UnknownModelError, match="there is no model 'c', expected one of a, b"):
            await models.get("c")
        pool = first.pool()
        assert first.pool() is pool and first.open_streams() == 0
        models.close()
        with pytest.raises(RuntimeError):
            pool.open(0)

    asyncio.run(loaded())


def test_token_is_not_in_the_repr() -> None:
    assert "s3cret" not in repr(Settings(token=TOKEN))
