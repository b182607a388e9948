"""Tests of vocos-onnx serve as a process: right answers, bad input, and malicious clients."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import struct
import time
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.service.process import Answer, Server, request, rest
from vocos_onnx import VocosONNX, load_audio, save_tokens

SERVE = ["-m", "vocos_onnx", "serve"]
STREAM = "/v1/decode?stream=true&format=pcm"
TOKENS = np.random.default_rng(0).integers(1024, size=(8, 200))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tmp")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with Server(*SERVE, "--max-seconds", "60", "--max-json", "0.1", TMPDIR=str(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def vocos() -> VocosONNX:
    return VocosONNX(threads=1)


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version)
    return out.getvalue()


def npz(compression: int = zipfile.ZIP_STORED, **entries: object) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, value in entries.items():
            archive.writestr(f"{name}.npy", npy(np.asarray(value)))
    return out.getvalue()


def header(shape: str, descr: str = "'<i8'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive(*entries: bytes) -> bytes:
    """Returns an .npz that holds each entry under the name of the tokens."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made, warnings.catch_warnings(action="ignore"):  # about duplicate names
        for entry in entries:
            made.writestr("tokens.npy", entry)
    return out.getvalue()


def file(audio: np.ndarray, rate: int = 24_000, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, audio, rate, format=kind, subtype=subtype)
    return out.getvalue()


def same(answer: Answer, expected: np.ndarray) -> None:
    """Checks that the answer is this audio as libsndfile writes it to a .wav, within the last bit of each sample."""
    assert answer.status == 200, answer.raw[:300]
    assert answer.headers["content-type"] == "audio/wav"
    assert answer.headers["content-length"] == str(len(answer.body))
    whole = file(expected)
    assert (answer.body[:44], len(answer.body)) == (whole[:44], len(whole))
    given, wanted = (np.frombuffer(data[44:], "<i2").astype(int) for data in (answer.body, whole))
    assert np.abs(given - wanted).max() <= 1


@pytest.mark.parametrize("frames", [1, 2, 200, 1500, 1501, 3100])
def test_tokens(server: Server, vocos: VocosONNX, frames: int) -> None:
    tokens = np.resize(TOKENS, (8, frames))
    expected = vocos.decode(tokens)
    same(server.ask("/v1/decode", npy(tokens)), expected)
    same(server.ask("/v1/decode", npy(np.asfortranarray(tokens.astype(">u2")), (2, 0))), expected)
    if frames < 2000:
        text = json.dumps({"tokens": tokens.tolist(), "sample_rate": 24_000}).encode()
        same(server.ask("/v1/decode", text), expected)
    answer = server.ask(STREAM, npy(tokens))
    assert answer.headers["content-type"] == "audio/pcm;rate=24000;channels=1;encoding=s16le"
    pcm = np.round(expected * 32768).clip(-32768, 32767)
    assert np.abs(np.frombuffer(answer.body, "<i2") - pcm).max() <= 1


def test_tokens_that_name_their_codec(server: Server, vocos: VocosONNX, tmp_path: Path) -> None:
    """In an archive from save_tokens, and in JSON."""
    save_tokens(tmp_path / "t.npz", TOKENS, vocos)
    expected, data = vocos.decode(TOKENS), (tmp_path / "t.npz").read_bytes()
    same(server.ask("/v1/decode", data), expected)
    assert len(server.ask(STREAM, data).body) == 2 * len(expected)
    assert vocos.config.encodec is not None
    known = {"codec": "vocos_onnx_24khz", "codebooks_sha256": vocos.config.encodec.codebooks_sha256}
    same(server.ask("/v1/decode", json.dumps({"tokens": TOKENS.tolist(), **known}).encode()), expected)
    same(server.ask("/v1/decode", npz(tokens=TOKENS)), expected)
    other: dict[str, Any] = {"codec": "some_codec", "codebooks_sha256": "ab" * 32}
    for path in ("/v1/decode", STREAM):
        for body in (npz(tokens=TOKENS, **other), json.dumps({"tokens": TOKENS.tolist(), **other}).encode()):
            answer = server.ask(path, body)
            assert answer.status == 400
            assert "these are tokens of some_codec, and this model decodes those of" in answer.json()["error"]
            assert "no other model of the service is known" in answer.json()["error"]


def test_bandwidths(server: Server, vocos: VocosONNX) -> None:
    same(server.ask("/v1/decode?bandwidth_id=1", npy(TOKENS[:4])), vocos.decode(TOKENS[:4]))
    audio = vocos.decode(TOKENS)
    for text, bandwidth in [("", None), ("?bandwidth=1.5", 1.5), ("?bandwidth=12", 12)]:
        read = soundfile.read(io.BytesIO(file(audio)), dtype="float32")[0]
        same(server.ask(f"/v1/resynth{text}", file(audio)), vocos(read, 24_000, bandwidth=bandwidth)[: len(audio)])


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"),
    [("WAV", "FLOAT", 24_000), ("FLAC", "PCM_16", 44_100), ("OGG", "VORBIS", 16_000), ("MP3", "MPEG_LAYER_III", 8000)],
)
def test_recordings(
    server: Server, vocos: VocosONNX, folder: Path, tmp_path: Path, kind: str, subtype: str, rate: int
) -> None:
    tone = 0.3 * np.sin(np.arange(5 * rate) / 30)
    data = file(np.stack([tone, tone / 2], axis=1), rate, kind, subtype)
    (tmp_path / "a").write_bytes(data)
    audio = load_audio(tmp_path / "a", 24_000)
    same(server.ask("/v1/resynth", data), vocos(audio, 24_000)[: len(audio)])
    assert not list(folder.glob("vocos-*"))


def test_audio_is_as_long_as_the_recording_was(server: Server, vocos: VocosONNX, tmp_path: Path) -> None:
    """If the tokens state the length, in an archive or JSON, as on the command line; an impossible one is refused."""
    samples, expected = 200 * 320 - 100, vocos.decode(TOKENS)
    save_tokens(tmp_path / "t.npz", TOKENS, vocos, samples=samples)
    text = json.dumps({"tokens": TOKENS.tolist(), "samples": samples}).encode()
    for body in ((tmp_path / "t.npz").read_bytes(), text):
        same(server.ask("/v1/decode", body), expected[:samples])
        assert len(server.ask(STREAM, body).body) == 2 * samples
    for wrong in (samples - 320, 200 * 320 + 1, -1, 1.5, "1", True):
        answer = server.ask("/v1/decode", json.dumps({"tokens": TOKENS.tolist(), "samples": wrong}).encode())
        assert answer.status == 400 and answer.json()["error"].startswith("samples is ")


@pytest.mark.parametrize("batch", [TOKENS[None], TOKENS[:, None]])
def test_a_batch_of_one(server: Server, vocos: VocosONNX, batch: np.ndarray) -> None:
    """In every kind of body, since other programs store one recording as a batch."""
    expected = vocos.decode(TOKENS)
    for body in (npy(batch), npz(tokens=batch), json.dumps({"tokens": batch.tolist()}).encode()):
        same(server.ask("/v1/decode", body), expected)


BAD = {
    "empty": ("/v1/decode", b"", "empty"),
    "no array": ("/v1/decode", b"\x93NUMPY\x01\x00garbage", "cannot read"),
    "a pickle": ("/v1/decode", b"\x80\x04K\x01.", "cannot read"),
    "an array of objects": ("/v1/decode", header("(2, 3)", "'|O'") + b"\x80\x04K\x01." * 10, "dtype"),
    "a structure": ("/v1/decode", header("(2, 3)", "[('a', '<i8')]") + bytes(48), "dtype"),
    "an array that is not there": ("/v1/decode", header("(8, 1000)") + bytes(8), "promises"),
    "a huge array": ("/v1/decode", header("(100, 4000)") + bytes(8), "promises"),
    "more than the array": ("/v1/decode", npy(TOKENS) + b"x", "promises"),
    "frames beyond the limit": ("/v1/decode", header("(8, 1000000000000)") + bytes(8), "s of audio"),
    "codebooks beyond all": ("/v1/decode", header("(1000000000000, 8)") + bytes(8), "codebooks"),
    "a shape of huge numbers": ("/v1/decode", header("(8, 1" + "0" * 500 + ")"), "s of audio"),
    "a negative shape": ("/v1/decode", header("(-8, 100)") + bytes(8), "shape"),
    "an archive of garbage": ("/v1/decode", b"PK\3\4" + b"x" * 100, "cannot read the body as .npz"),
    "an archive without tokens": ("/v1/decode", npz(a=TOKENS, b=TOKENS), "holds the arrays a (8, "),
    "an archive of many entries": (
        "/v1/decode",
        npz(**{f"a{i}": 0 for i in range(1000)}),
        "1000 entries, expected at",
    ),
    "an archive of zeros": ("/v1/decode", npz(zipfile.ZIP_DEFLATED, tokens=np.zeros((8, 1_100_000))), "unpacks to"),
    "an archive of bzip2": ("/v1/decode", npz(zipfile.ZIP_BZIP2, tokens=TOKENS), "stored or deflated"),
    "an archive of a batch": ("/v1/decode", npz(tokens=np.stack([TOKENS, TOKENS])), "shape"),
    "an archive of texts": ("/v1/decode", npz(tokens=[["a"]]), "dtype"),
    "an archive of a pickle": ("/v1/decode", npz(tokens=np.zeros(3), codec=[None]), "cannot read"),
    "a codec that is no name": ("/v1/decode", b'{"tokens": [[1]], "codec": [1]}', "codec is [1], expected a name"),
    "one axis": ("/v1/decode", npy(TOKENS[0]), "shape"),
    "three axes": (STREAM, npy(np.stack([TOKENS] * 2)), "shape"),
    "no frames": ("/v1/decode", npy(TOKENS[:, :0]), "shape"),
    "a header of 60 kB": ("/v1/decode", b"\x93NUMPY\x01\x00\x00\xf0" + b" " * 0xF000, "cannot read"),
    "other codes": ("/v1/decode", npy(TOKENS + 1024), "1023"),
    "other codes in a stream": (STREAM, npy(TOKENS - 1024), "1023"),
    "too long": ("/v1/decode", npy(np.zeros((2, 75 * 61), int)), "61 s of audio"),
    "JSON too long": ("/v1/decode", b'{"tokens": [[' + b"1," * 20_000 + b"1]]}", "s of audio"),
    "ragged JSON": ("/v1/decode", b'{"tokens": [[1], [2, 3]]}', "row 1 has 2 numbers, and row 0 has 1, expected a"),
    "JSON without tokens": ("/v1/decode", b'{"a": 1}', "cannot read"),
    "JSON of many lists": ("/v1/decode", b'{"tokens": [' + b"[]," * 30_000 + b"[]]}", "a list for each row"),
    "JSON of many objects": ("/v1/decode", b'{"tokens": [' + b'{"":1},' * 10_000 + b"1]}", "a list for each row"),
    "JSON of many texts": ("/v1/decode", b'{"tokens": [[' + b'"",' * 30_000 + b'""]]}', "a list for each row"),
    "JSON of 50,000 brackets": ("/v1/decode", b'{"tokens": ' + b"[" * 50_000, "a list for each row"),
    "JSON of a long text": (
        "/v1/decode",
        b'{"tokens": [["' + b"A" * 90_000 + b'"' + b",1" * 1000 + b"]]}",
        "integers alone",
    ),
    "JSON of floats": ("/v1/decode", b'{"tokens": [[1.0, 2]]}', "integers alone"),
    "JSON of no numbers": ("/v1/decode", b'{"tokens": [[NaN, Infinity]]}', "integers alone"),
    "JSON of true": ("/v1/decode", b'{"tokens": [[true, 2]]}', "integers alone"),
    "JSON of null": (STREAM, b'{"tokens": [[null, 2]]}', "integers alone"),
    "JSON of lists in lists": (
        "/v1/decode",
        b'{"tokens": [[[1], [2]], [[1], [2]]]}',
        "items of a batch one by one",
    ),
    "JSON of lists among numbers": ("/v1/decode", b'{"tokens": [[1, [2]], [1, 2]]}', "three deep"),
    "JSON of lists in lists in lists": ("/v1/decode", b'{"tokens": [[[[[1, 2]]]]]}', "three deep"),
    "JSON of objects": ("/v1/decode", b'{"tokens": [[{}, 2]]}', "integers alone"),
    "JSON of numbers beyond 64 bits": ("/v1/decode", b'{"tokens": [[1, 9223372036854775808]]}', "64 bits"),
    "JSON of negative numbers": ("/v1/decode", b'{"tokens": [[1, 2], [3, -9223372036854775808]]}', "1023"),
    "JSON of nothing": ("/v1/decode", b'{"tokens": []}', "shape"),
    "JSON of empty lists": ("/v1/decode", b'{"tokens": [[], []]}', "shape"),
    "JSON of one list": ("/v1/decode", b'{"tokens": [1, 2]}', "a list of equal length"),
    "JSON of a text": ("/v1/decode", b'{"tokens": "12"}', "a list of equal length"),
    "a shape of booleans": ("/v1/decode", header("(True, True)") + bytes(8), "header is damaged"),
    "a shape of a product": ("/v1/decode", header("(9*9, 1)") + bytes(648), "header is damaged"),
    "a shape of floats": ("/v1/decode", header("(2.0, 3)") + bytes(48), "header is damaged"),
    "an archive of a shape of booleans": ("/v1/decode", archive(header("(True, True)") + bytes(8)), ""),
    "an archive of a shape of a product": ("/v1/decode", archive(header("(9*9, 1)") + bytes(648)), ""),
    "JSON of huge numbers": ("/v1/decode", b'{"tokens": [[1' + b"0" * 90_000 + b"]]}", "cannot read"),
    "an id that is no number": ("/v1/decode?bandwidth_id=x", npy(TOKENS), "'x'"),
    "an id of 400 digits": (f"/v1/decode?bandwidth_id={10**400}", npy(TOKENS), "expected a number"),
    "an id in other digits": ("/v1/decode?bandwidth_id=%D9%A3", npy(TOKENS), "expected a number"),
    "an id with a line": ("/v1/decode?bandwidth_id=1_0", npy(TOKENS), "expected a number"),
    "an id beyond all": ("/v1/decode?bandwidth_id=9", npy(TOKENS), "bandwidth_id"),
    "a huge id": (STREAM + "&bandwidth_id=999999999", npy(TOKENS), "bandwidth_id"),
    "a long text for an id": ("/v1/decode?bandwidth_id=" + "secret" * 1000, npy(TOKENS), "expected a number"),
    "nan": ("/v1/resynth?bandwidth=nan", file(np.zeros(999)), "expected a number"),
    "infinity": ("/v1/resynth?bandwidth=-inf", file(np.zeros(999)), "expected a number"),
    "a huge bandwidth": ("/v1/resynth?bandwidth=1e99", file(np.zeros(999)), "1e+99"),
    "another bandwidth": ("/v1/resynth?bandwidth=5", file(np.zeros(999)), "5"),
    "no audio": ("/v1/resynth", b"hello", "cannot read"),
    "empty audio": ("/v1/resynth", file(np.zeros(0)), ""),
    "audio of nan": ("/v1/resynth", file(np.full(999, np.nan), subtype="FLOAT"), "NaN"),
    "hours in a small file": ("/v1/resynth", file(np.zeros(7_000_000), 1000, "FLAC", "PCM_S8"), "7000 s of audio"),
    "many channels": ("/v1/resynth", file(np.zeros((100, 1000)), subtype="PCM_U8"), "channels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(server: Server, folder: Path, name: str) -> None:
    path, body, reason = BAD[name]
    answer = server.ask(path, body)
    assert answer.status == 400, answer.raw[:300]
    error = answer.json()["error"]
    assert reason in error
    assert len(error) <= 300
    assert "0x" not in error
    assert str(folder) not in error and "/" not in error.replace("samples/s", "").replace(
        "/v1/models", ""
    )  # no path on the server
    assert not list(folder.glob("vocos-*"))


def test_other_refusals(server: Server) -> None:
    assert server.ask("/v1/decode", json.dumps({"tokens": [[1] * 60_000]}).encode()).status == 413
    assert server.ask("/v1/decode", bytes(64_000_001)).status == 413
    assert server.ask("/nothing", b"x").status == 404
    for path in ("/v1/decode", "/v1/resynth", "/v1/encode"):
        for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
            assert server.ask(path, method=method).status == 405
    assert server.ask("/healthz", method="HEAD").status == 200
    long = server.ask("/v1/decode?" + "a" * 10_000 + "=1", npy(TOKENS))
    assert long.status == 400 and len(long.body) < 400
    upgrade = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    data = request("/v1/decode", b"", "Connection: close, Upgrade", *upgrade, method="GET")
    assert b"HTTP/1.1 101" not in server.say(data).raw  # only /v1/stream takes WebSockets


def test_each_client_gets_its_own(server: Server, vocos: VocosONNX) -> None:
    many = [np.random.default_rng(i).integers(1024, size=(8, 30 + i)) for i in range(12)]
    right = [vocos.decode(tokens) for tokens in many]

    def ask(i: int) -> Answer:
        while (answer := server.ask("/v1/decode", npy(many[i % 12]))).status == 429:
            time.sleep(0.05)
        return answer

    with ThreadPoolExecutor(12) as clients:
        for i, answer in enumerate(clients.map(ask, range(48))):
            same(answer, right[i % 12])


def test_clients_that_leave(server: Server, folder: Path) -> None:
    flac = file(np.random.default_rng(0).standard_normal(24_000 * 50) / 9, kind="FLAC")
    for i in range(30):
        path, data = [("/v1/resynth", flac), ("/v1/decode", npy(np.zeros((16, 4000), int))), (STREAM, npy(TOKENS))][
            i % 3
        ]
        plug = server.connect(request(path, data))
        time.sleep(0.01 * (i % 5))
        plug.close()
    end = time.monotonic() + 20
    while server.health()[1]["requests"] or list(folder.glob("vocos-*")):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert server.ask("/v1/decode", npy(TOKENS)).status == 200


def test_attack(vocos: VocosONNX) -> None:
    """During slow, silent and greedy clients, honest ones are served in 1 GB of memory, and shutdown still works."""
    long = npy(np.zeros((8, 75 * 120), np.int16))
    many_lists = b'{"tokens": [' + b"[]," * 3_300_000 + b"[]]}"
    with Server(*SERVE, OMP_NUM_THREADS="1") as server:
        for _ in range(18):
            server.connect(request("/v1/decode", b"x", length=100_000))
            server.connect(request("/v1/decode", long), receive_buffer=4096)
            server.connect(request(STREAM, long), receive_buffer=4096)
            server.connect(request("/v1/resynth", bytes(1_900_000), length=2_000_000))
            server.connect(b"POST /v1/decode HTTP/1.1\r\nX: ")
            server.connect()
        with ThreadPoolExecutor(18) as greedy:
            answers = [greedy.submit(server.ask, "/v1/decode", many_lists) for _ in range(18)]
            slowest, right = 0.0, 0
            end = time.monotonic() + 60
            while right < 3 or not all(answer.done() for answer in answers):
                slowest = max(slowest, server.health()[0])
                answer = server.ask("/v1/decode", npy(TOKENS))
                assert answer.status in (200, 429, 503)
                if answer.status == 200:
                    same(answer, vocos.decode(TOKENS))
                    right += 1
                assert time.monotonic() < end
                time.sleep(0.05)
        assert {answer.result().status for answer in answers} <= {400, 413, 429, 503}
        assert slowest <= 2
        assert server.memory() <= 1000
        busy = server.connect(request("/v1/decode", npy(TOKENS)))
        time.sleep(0.05)
        code, took, said = server.stop(signal.SIGTERM)
        assert Answer(rest(busy)).status in (200, 429, 503)
        assert code == 128 + signal.SIGTERM
        assert took < 12
        assert "Traceback" not in said, said


def test_text_among_numbers(vocos: VocosONNX) -> None:
    """From such a list numpy would make 1000 strings of a million characters."""
    body = b'{"tokens": [["' + b"A" * 1_000_000 + b'"' + b",1" * 1000 + b"]]}"
    with Server(*SERVE, OMP_NUM_THREADS="1") as server, ThreadPoolExecutor(3) as clients:
        answers = [clients.submit(server.ask, "/v1/decode", body) for _ in range(3)]
        while not all(answer.done() for answer in answers):
            assert server.health()[0] < 2
        assert {answer.result().status for answer in answers} == {400}
        assert server.memory() < 500


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_end_leaves_no_recording(tmp_path: Path, number: int) -> None:
    """Stopped in the middle of work, whose threads run until the process ends."""
    body = file(np.random.default_rng(0).standard_normal(24_000 * 200) / 20, kind="FLAC")
    with Server(*SERVE, "--workers", "2", TMPDIR=str(tmp_path), OMP_NUM_THREADS="1") as server:
        for _ in range(3):
            server.connect(request("/v1/resynth", body))
        end = time.monotonic() + 20
        while server.health()[1]["requests"] < 3:
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(0.5)
        code, took, said = server.stop(number)
        assert code == (-number if number == signal.SIGKILL else 128 + number) and took < 12
        assert "Traceback" not in said, said
    assert not list(tmp_path.rglob("*"))


def test_end_by_the_keyboard() -> None:
    with Server(*SERVE) as server:
        server.connect(request("/v1/decode", b"x", length=100_000))
        code, took, _ = server.stop(signal.SIGINT)
        assert code == 130
        assert took < 10


def test_no_temporary_folder(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    missing.mkdir()
    with Server(*SERVE, TMPDIR=str(missing)) as server:
        assert server.ask("/v1/resynth", file(np.zeros(9999))).status == 200
        shutil.rmtree(missing)
        answer = server.ask("/v1/resynth", file(np.zeros(9999)))
        assert answer.status == 503
        assert os.fsencode(missing) not in answer.raw
        assert server.health()[1]["status"] == "ok"
