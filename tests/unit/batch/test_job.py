"""Settings: how they are compared with those of another job, and the errors for those that do not fit the task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import DATA
from vocos_onnx.batch import Settings

MODEL, ENCODER, MEL = DATA / "encodec.onnx", DATA / "encoder.onnx", DATA / "mel.onnx"


def test_differences_name_the_models() -> None:
    own = Settings.of("resynth", model=MODEL, encoder=ENCODER, bandwidth=1.5)
    other = Settings.of("decode", model="vocos-mel-24khz-small", mels_from="f5", format="flac")
    assert own.names() == {"model": "encodec.onnx", "encoder": "encoder.onnx"}
    assert other.names() == {"model": "vocos-mel-24khz-small"}
    mine, theirs = (str(settings.described()["model"])[:12] for settings in (own, other))
    encoder = str(own.described()["encoder"])[:12]
    rest = [
        f"encoder is encoder.onnx (sha256 {encoder}...) here and none there",
        "bandwidth is 1.5 here and none there",
        "mels_from is none here and 'f5' there",
    ]
    first = ["task is 'resynth' here and 'decode' there", "format is 'wav' here and 'flac' there"]
    named = f"model is encodec.onnx (sha256 {mine}...) here and vocos-mel-24khz-small (sha256 {theirs}...) there"
    assert own.differences(other.described(), other.names()) == [*first, named, *rest]
    unnamed = f"model is encodec.onnx (sha256 {mine}...) here and the file of sha256 {theirs}... there"
    assert own.differences(other.described()) == [*first, unnamed, *rest]
    assert own.differences(own.described(), {"model": "another name"}) == []


@pytest.mark.parametrize(
    ("task", "given", "expected"),
    [
        ("decode", "FLAC", "flac"), ("decode", ".wav", "wav"), ("decode", None, "wav"), ("resynth", ".Opus", "opus"),
        ("encode", ".NPZ", "npz"), ("encode", None, "npz"),
    ],
)  # fmt: skip
def test_formats_as_the_single_commands_take_them(task: Any, given: str | None, expected: str) -> None:
    models: dict[str, Any] = {} if task == "encode" else {"model": MODEL}
    if task != "decode":
        models |= {"encoder": ENCODER, "bandwidth": 1.5}
    assert Settings.of(task, format=given, **models).format == expected


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        (
            "encode",
            {"model": MEL},
            r"model is .*mel\.onnx.*, but audio to tokens takes none: leave it out, or pass task='resynth' for copies",
        ),
        ("encode", {"key": "codes"}, "key is 'codes', but audio to tokens takes none: leave it out$"),
        ("decode", {"encoder": ENCODER}, r"encoder is .*, but tokens or mels to audio takes none: leave it out$"),
        ("resynth", {"mels_from": "f5"}, "mels_from is 'f5', but audio to audio takes none: leave it out$"),
        ("encode", {"format": "wav"}, "format is 'wav', expected npz: the outputs are tokens; pass task='resynth' for"),
        ("decode", {"format": "m4a"}, "format is 'm4a', expected wav or .* or opus: the outputs are audio$"),
        ("decode", {"format": 3}, "format is 3, expected wav"),
        (
            "resynth",
            {"model": MODEL},
            r"audio to tokens of encodec_24khz needs its encoder: pass encoder='facebook/encodec_24khz', which is "
            r"downloaded, or make one with vocos-onnx convert facebook/encodec_24khz",
        ),
        (
            "decode",
            {"model": MODEL, "mels_from": "f5"},
            "leave it out, or pass a model of mels, such as model='vocos-mel-24khz-small'$",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_task(task: Any, given: dict[str, Path], message: str) -> None:
    options: dict[str, Any] = given
    with pytest.raises(ValueError, match=message):
        Settings.of(task, **options)
