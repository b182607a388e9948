"""Token files say whose tokens they hold, and no other codec's model decodes them."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import DATA

from vocos_onnx import EncodecONNX, Tokens, VocosONNX, load_tokens, save_tokens
from vocos_onnx.cli import main

MODEL, ENCODER = str(DATA / "encodec.onnx"), str(DATA / "encoder.onnx")
CODES = np.random.default_rng(0).integers(1024, size=(2, 30))
OTHER = {"codec": "some_codec", "codebooks_sha256": "ab" * 32}


@pytest.fixture(scope="module")
def encoder() -> EncodecONNX:
    return EncodecONNX(ENCODER)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    soundfile.write("speech.wav", np.random.default_rng(1).normal(0, 0.1, 12_000), 24_000)
    return tmp_path


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


@pytest.mark.parametrize(("bandwidth", "count"), [("0.75", 1), ("1.5", 2), ("3", 4)])
def test_encode_names_the_codec(folder, encoder, bandwidth, count):
    assert run("encode", "speech.wav", "out.npz", "--encoder", ENCODER, "--bandwidth", bandwidth) == 0
    with np.load("out.npz") as archive:
        assert set(archive.files) == {"tokens", "samples", "sample_rate", "codec", "codebooks_sha256"}
        assert archive["tokens"].shape == (count, 38)
        assert (archive["samples"], archive["sample_rate"]) == (12_000, 24_000)
        assert archive["codec"] == "encodec_24khz"
        table = encoder.codebooks[:count].astype("<f4").tobytes()
        assert archive["codebooks_sha256"] == hashlib.sha256(table).hexdigest()


def test_what_encode_wrote_is_decoded_without_a_word(folder, capsys, recwarn):
    assert run("encode", "speech.wav", "out.npz", "--encoder", ENCODER, "--bandwidth", "1.5") == 0
    assert run("decode", "out.npz", "out.wav", "--model", MODEL) == 0
    assert capsys.readouterr().err == ""
    vocos, tokens = VocosONNX(MODEL), load_tokens("out.npz")
    assert (tokens.samples, tokens.sample_rate, tokens.codec) == (12_000, 24_000, "encodec_24khz")
    assert np.array_equal(vocos.decode(tokens), vocos.decode(tokens.codes))
    assert np.array_equal(np.asarray(tokens), tokens.codes)
    assert not recwarn.list


def test_the_bundled_codec(folder, capsys):
    assert run("encode", "speech.wav", "own.npz", "--bandwidth", "3") == 0
    assert run("decode", "own.npz", "own.wav") == 0
    assert capsys.readouterr().err == ""
    assert run("decode", "own.npz", "other.wav", "--model", MODEL) == 2
    assert (
        "these are tokens of vocos_onnx_24khz, and this model decodes those of encodec_24khz" in capsys.readouterr().err
    )
    assert not Path("other.wav").exists()


@pytest.mark.parametrize("how", ["decode", "list", "decode_stream", "push", "codes_to_features"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            OTHER,
            "these are tokens of some_codec, and this model decodes those of encodec_24khz, to which they are noise",
        ),
        ({"codec": "some_codec"}, "these are tokens of some_codec"),
        ({"codebooks_sha256": "ab" * 32}, "these are tokens of another codec"),
        ({**OTHER, "codec": "encodec_24khz"}, "(of that name too, but with other codebooks)"),
        ({"codec": "encodec_24khz", "sample_rate": 48_000}, "these are tokens of audio at 48000 Hz"),
    ],
)
def test_tokens_of_another_codec_are_refused(encodec, how, changes, message):
    tokens = Tokens(CODES, **changes)
    with pytest.raises(ValueError) as caught:
        match how:
            case "decode":
                encodec.decode(tokens)
            case "list":
                encodec.decode([Tokens(CODES), tokens])
            case "decode_stream":
                list(encodec.decode_stream([tokens]))
            case "push":
                encodec.stream().push(tokens)
            case "codes_to_features":
                encodec.codes_to_features(tokens)
    assert message in str(caught.value)


def test_tokens_for_a_mel_model(mel):
    with pytest.raises(ValueError, match="these are tokens of some_codec, and this is a mel model"):
        mel.decode(Tokens(CODES, **OTHER))


def test_a_file_of_another_codec_is_refused_on_the_command_line(folder, capsys):
    np.savez("other.npz", tokens=CODES, **OTHER)
    assert run("decode", "other.npz", "out.wav", "--model", MODEL) == 2
    error = capsys.readouterr().err
    assert "these are tokens of some_codec, and this model decodes those of encodec_24khz" in error
    assert error.count("\n") == 1
    assert not Path("out.wav").exists()


@pytest.mark.parametrize("name", ["plain.npy", "plain.npz", "codes.npz", "samples.npz"])
def test_a_file_without_a_codec_is_one_line(folder, capsys, name):
    np.save("plain.npy", CODES)
    np.savez("plain.npz", CODES)
    np.savez("codes.npz", codes=CODES, source="somewhere")
    np.savez("samples.npz", tokens=CODES, samples=9600, sample_rate=24_000)
    assert run("decode", name, "out.wav", "--model", MODEL) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "names no codec: its tokens are taken for those of encodec_24khz, which this model decodes" in error


def test_features_need_no_codec(folder, capsys, recwarn):
    np.save("mel.npy", np.zeros((8, 20), np.float32))
    assert run("decode", "mel.npy", "out.wav", "--model", DATA / "mel.onnx") == 0
    assert capsys.readouterr().err == ""
    load_tokens("mel.npy")
    assert not recwarn.list


def test_one_warning_in_a_process(folder):
    """From load_tokens alone: arrays never warn."""
    code = f"""
import warnings, numpy as np
from vocos_onnx import VocosONNX, load_tokens
np.save("t.npy", np.zeros((2, 30), int))
vocos = VocosONNX({MODEL!r})
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    vocos.decode(np.load("t.npy")); vocos.decode([np.load("t.npy")] * 2)
    assert not seen
    vocos.decode(load_tokens("t.npy")); vocos.decode(load_tokens("t.npy"))
    assert len(seen) == 1 and "names no codec" in str(seen[0].message), seen
    assert seen[0].filename == "<string>", seen[0].filename
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_save_and_load(tmp_path, encoder, encodec, recwarn):
    path = tmp_path / "t.npz"
    for codec in (encoder, encodec):
        save_tokens(path, CODES, codec, samples=9500)
        tokens = load_tokens(path)
        assert np.array_equal(tokens.codes, CODES)
        assert tokens.codes.dtype == np.int16
        assert (tokens.samples, tokens.sample_rate, tokens.codec) == (9500, 24_000, "encodec_24khz")
        assert np.array_equal(encodec.decode(tokens), encodec.decode(CODES))
    save_tokens(tmp_path / "again.npz", tokens)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()
    with path.open("rb") as file:
        assert load_tokens(file).codec == "encodec_24khz"
    assert load_tokens(io.BytesIO(path.read_bytes())).samples == 9500
    one = encodec.decode(Tokens(CODES[:1], codec="encodec_24khz", codebooks_sha256=tokens.codebooks_sha256))
    assert np.array_equal(one, encodec.decode(CODES[:1]))  # fewer rows than the fingerprint is of
    assert not recwarn.list


@pytest.mark.parametrize(
    ("largest", "dtype"), [(32_767, np.int16), (32_768, np.int32), (65_535, np.int32), (2**31, np.int64)]
)
def test_no_value_wraps(tmp_path, largest, dtype):
    codes = np.array([[0, largest]], np.uint32)
    save_tokens(tmp_path / "t.npz", codes)
    with np.load(tmp_path / "t.npz") as archive:
        assert archive["tokens"].dtype == dtype
        assert archive["tokens"].tolist() == [[0, largest]]


@pytest.mark.parametrize(
    ("name", "codes", "with_mel", "message"),
    [
        ("t.npy", CODES, False, "'t.npy' does not end in .npz"),
        ("t.npz", CODES.astype(float), False, "tokens have dtype float64 and shape (2, 30), expected integers"),
        ("t.npz", CODES[0], False, "tokens have dtype int64 and shape (30,), expected integers (codebooks, frames)"),
        ("t.npz", CODES[:, :0], False, "shape (2, 0)"),
        ("t.npz", CODES + 1024, False, "are not of the codec encodec_24khz, which has 4 codebooks of 0 to 1023"),
        ("t.npz", np.zeros((5, 3), int), False, "tokens of 5 codebooks with values from 0 to 0 are not of the codec"),
        ("t.npz", np.array([[1 << 63]], np.uint64), None, "tokens hold the value 9223372036854775808"),
        ("t.npz", CODES, True, "the codec is a mel model, which has no tokens"),
    ],
)
def test_what_cannot_be_saved(tmp_path, encoder, mel, name, codes, with_mel, message):
    with pytest.raises(ValueError) as caught:
        save_tokens(tmp_path / name, codes, None if with_mel is None else mel if with_mel else encoder)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "entries",
    [
        {"codec": 3},
        {"codec": ""},
        {"codec": "x" * 201},
        {"codec": "a\nb\x1b[31m"},
        {"codec": ["a", "b"]},
        {"codebooks_sha256": b"ab"},
        {"samples": 1.5},
        {"samples": [1, 2]},
        {"sample_rate": "24000"},
    ],
)
def test_damaged_entries(tmp_path, entries):
    np.savez(tmp_path / "t.npz", tokens=CODES, **{"codec": "encodec_24khz", **entries})
    with pytest.raises(ValueError, match=r"cannot read .*t\.npz as \.npy or \.npz: ") as caught:
        load_tokens(tmp_path / "t.npz")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("samples", ["abc", 2.5, 10**30, -1, [1], object()])
def test_samples_that_are_no_number(tmp_path, samples):
    with pytest.raises(ValueError, match="expected how many samples the recording has"):
        save_tokens(tmp_path / "t.npz", CODES, samples=samples)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["samples", "sample_rate", "codec", "codebooks_sha256"])
def test_entries_are_not_unpacked_where_they_are_large(tmp_path, name):
    value = np.zeros(1 << 17, "<U1") if name.startswith("cod") else np.zeros(1 << 16)
    np.savez_compressed(tmp_path / "t.npz", tokens=CODES, **{name: value})
    with pytest.raises(ValueError, match=f"its {name} takes more than 4096 bytes, expected one value"):
        load_tokens(tmp_path / "t.npz")


def test_members_that_are_no_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("tokens", b"x")
    with pytest.raises(ValueError, match="its 'tokens' is no array"):
        load_tokens(tmp_path / "t.npz")


def test_names_of_arrays_are_shortened(tmp_path):
    np.savez(tmp_path / "t.npz", **{f"{i}\x1b[31m" + "x" * 500: CODES for i in range(100)})
    with pytest.raises(ValueError, match="and 90 more; name one of them tokens") as caught:
        load_tokens(tmp_path / "t.npz")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500


def test_a_list_of_codes_is_an_array(encodec):
    tokens = Tokens(CODES.tolist())
    assert tokens.anonymous
    assert np.array_equal(encodec.decode(tokens), encodec.decode(CODES))


@pytest.mark.filterwarnings("ignore:.* names no codec")
@pytest.mark.parametrize(
    ("compression", "megabytes", "right"),
    [
        (zipfile.ZIP_STORED, 80, True),
        (zipfile.ZIP_DEFLATED, 60, True),
        (zipfile.ZIP_DEFLATED, 80, False),
        (zipfile.ZIP_BZIP2, 1, False),
        (zipfile.ZIP_LZMA, 1, False),
    ],
)
def test_archives_that_unpack_to_much(tmp_path, compression, megabytes, right):
    with zipfile.ZipFile(tmp_path / "t.npz", "w", compression) as archive, archive.open("tokens.npy", "w") as file:
        header = {"descr": "|i1", "fortran_order": False, "shape": (4, megabytes << 18)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(megabytes):
            file.write(bytes(1 << 20))
    if right:
        assert load_tokens(tmp_path / "t.npz").codes.shape == (4, megabytes << 18)
    else:
        with pytest.raises(ValueError, match=r"its 'tokens' unpacks to .* bytes, from .*, expected at most"):
            load_tokens(tmp_path / "t.npz")
