"""Configs found in practice: of forks, ports and other toolkits; those of related models raise an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import WAVENEXT
from vocos_onnx.dsp.mel import HIFIGAN, MelFeatures
from vocos_onnx.model.checkpoint import CheckpointError
from vocos_onnx.model.checkpoint_config import (
    ISTFTHead,
    VocosConfig,
    WaveNextHead,
    check_relatives,
    parse_config,
    read_config,
)
from vocos_onnx.model.config import EncodecFeatures, ModelConfig, Source

yaml = pytest.importorskip("yaml")

# models/vc/vevo/config/Vocoder.json of open-mmlab/Amphion, which has trailing commas
AMPHION = """{
    "model_type": "Vocoder",
    "dataset": ["emilia, [a]"],
    "preprocess": {
        "hop_size": 480, "sample_rate": 24000, "max_length": 36000, "n_fft": 1920, "num_mels": 128, "win_size": 1920,
        "fmin": 0, "fmax": 12000, "processed_dir": ",}", "use_emilia_101k": true,
    },
    "model": {
        "vocos": {
            "input_channels": 128, "dim": 1024, "intermediate_dim": 4096, "num_layers": 30, "n_fft": 1920,
            "hop_size": 480, "padding": "same"
        },
        "period_gan": {"channels": 64}
    },
}"""


def parsed(path: Path, text: str) -> VocosConfig:
    path.write_text(text)
    return parse_config(read_config(path))


def described(config: VocosConfig) -> ModelConfig:
    return config.described(config.features, Source("", "", "", ""))


def stock() -> dict[str, Any]:
    """A small config in upstream's layout."""
    features = {"sample_rate": 24000, "n_fft": 64, "hop_length": 16, "n_mels": 8, "padding": "center"}
    return {
        "feature_extractor": {
            "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
            "init_args": features,
        },
        "backbone": {
            "class_path": "vocos.models.VocosBackbone",
            "init_args": {"input_channels": 8, "dim": 16, "intermediate_dim": 24, "num_layers": 1},
        },
        "head": {
            "class_path": "vocos.heads.ISTFTHead",
            "init_args": {"dim": 16, "n_fft": 64, "hop_length": 16, "padding": "center"},
        },
    }


def test_wavenext(tmp_path: Path) -> None:
    """The hidden layer has the config's n_fft, but a frame of audio is one hop, and the padding has no effect."""
    config = parsed(tmp_path / "config.yaml", WAVENEXT)
    assert config.head == WaveNextHead(512, 1024, 256)
    mel = config.features
    assert isinstance(mel, MelFeatures)
    assert (mel.clip, mel.f_max, mel.norm, mel.mel_scale, mel.power_offset) == (1e-5, 8000.0, "slaney", "slaney", 0.0)
    model = described(config)
    assert (model.head, model.n_fft, model.hop_length) == ("wavenext", 256, 256)
    assert (model.padding, model.clip_audio, model.reach, model.sample_rate) == ("same", True, 27, 22050)
    assert ModelConfig.from_json(model.to_json()) == model
    other = WAVENEXT.replace("hop_length: 256, padding: same}", "hop_length: 256, padding: center}")
    assert described(parsed(tmp_path / "other.yaml", other)) == model


def test_clip_val(tmp_path: Path) -> None:
    """clip_val defaults to 1e-5 with the arguments of the Matcha fork, and to upstream's 1e-7 without them."""
    for old, new, clip in (
        ("clip_val: 1e-5\nb", "clip_val: 1e-6\nb", 1e-6),
        ("    clip_val: 1e-5\nb", "b", 1e-5),
        ('    f_min: 0\n    f_max: 8000\n    norm: "slaney"\n    mel_scale: "slaney"\n    clip_val: 1e-5\n', "", 1e-7),
    ):
        assert old in WAVENEXT
        mel = parsed(tmp_path / "config.yaml", WAVENEXT.replace(old, new)).features
        assert isinstance(mel, MelFeatures)
        assert mel.clip == clip
    for wrong, message in (("0", "mel clip is 0, expected more than 0"), ("small", "clip_val is 'small', expected fl")):
        with pytest.raises(CheckpointError, match=message):
            parsed(tmp_path / "config.yaml", WAVENEXT.replace("clip_val: 1e-5", f"clip_val: {wrong}"))


def test_a_training_config(tmp_path: Path) -> None:
    """The network's sections may be in the model's arguments, or beside it as in configs/wavenext_export.yaml."""
    expected = parsed(tmp_path / "plain.yaml", WAVENEXT)
    sections = yaml.safe_load(WAVENEXT)
    sections["feature_extractor"]["init_args"]["clip_val"] = 1e-5
    args = {"sample_rate": 22050, "initial_learning_rate": 1e-3}
    rest = {"seed_everything": 4444, "trainer": {"max_steps": 10}}
    nested = {"model": {"class_path": "vocos.experiment.VocosExp", "init_args": {**args, **sections}}, **rest}
    beside = {"model": {"class_path": "vocos.experiment.VocosExp", "init_args": args}, **sections, **rest}
    for tree in (nested, beside):
        assert parsed(tmp_path / "config.yaml", yaml.safe_dump(tree)) == expected


@pytest.mark.parametrize("odd", [1, 301, 1023])
def test_the_hidden_layer_of_a_wavenext_may_have_any_size(odd: int, tmp_path: Path) -> None:
    text = WAVENEXT.replace("dim: 512, n_fft: 1024", f"dim: 512, n_fft: {odd}")
    assert parsed(tmp_path / "config.yaml", text).head == WaveNextHead(512, odd, 256)
    with pytest.raises(CheckpointError, match=f"n_fft is {odd}, expected a positive multiple of 2"):
        parsed(tmp_path / "config.yaml", text.replace("WaveNextHead", "ISTFTHead"))


def test_class_paths_of_forks(tmp_path: Path) -> None:
    """Class paths of forks are accepted if the class names are upstream's."""
    expected = parsed(tmp_path / "stock.yaml", yaml.safe_dump(stock()))
    for root in ("decoder", "my.fork.of_vocos", ""):
        config = stock()
        for part in config.values():
            part["class_path"] = part["class_path"].replace("vocos", root).removeprefix(".")
        assert parsed(tmp_path / "config.yaml", yaml.safe_dump(config)) == expected
    config = stock()
    config["head"]["class_path"] = "os.system"
    with pytest.raises(CheckpointError, match=r"head class os\.system is not supported; supported are vocos\.heads"):
        parsed(tmp_path / "config.yaml", yaml.safe_dump(config))


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@pytest.mark.parametrize("flat", [False, True])
def test_no_class_paths(suffix: str, flat: bool, tmp_path: Path) -> None:
    """Without class paths, upstream's usual classes apply, and the head's padding defaults to that of the mels."""
    expected = parsed(tmp_path / "stock.yaml", yaml.safe_dump(stock()))
    sections = {k: v["init_args"] if flat else {"init_args": v["init_args"]} for k, v in stock().items()}
    text = json.dumps(sections) if suffix == "json" else yaml.safe_dump(sections)
    assert parsed(tmp_path / f"config.{suffix}", text) == expected
    args = sections["head"] if flat else sections["head"]["init_args"]
    del args["padding"]
    for padding in ("center", "same", None):
        features = sections["feature_extractor"] if flat else sections["feature_extractor"]["init_args"]
        features.pop("padding", None)
        features |= {} if padding is None else {"padding": padding}
        text = json.dumps(sections) if suffix == "json" else yaml.safe_dump(sections)
        head = parsed(tmp_path / f"config.{suffix}", text).head
        assert head == ISTFTHead(16, 64, 16, padding or "center")
    args |= {"mdct_frame_len": 32}  # an argument of MDCT heads, of which there are two
    text = json.dumps(sections) if suffix == "json" else yaml.safe_dump(sections)
    with pytest.raises(CheckpointError, match=r"the config lacks head\.class_path"):
        parsed(tmp_path / f"config.{suffix}", text)


def test_no_class_paths_of_a_codec(tmp_path: Path) -> None:
    sections = {
        "feature_extractor": {"init_args": {"encodec_model": "encodec_24khz", "bandwidths": [1.5, 3.0]}},
        "backbone": {"init_args": {"input_channels": 128, "dim": 16, "intermediate_dim": 24, "num_layers": 1}},
        "head": {"init_args": {"dim": 16, "n_fft": 1280, "hop_length": 320}},
    }
    config = parsed(tmp_path / "config.json", json.dumps(sections))
    assert isinstance(config.features, EncodecFeatures)
    assert config.head == ISTFTHead(16, 1280, 320, "same")


def test_amphion(tmp_path: Path) -> None:
    config = parsed(tmp_path / "config.json", AMPHION)
    assert config.head == ISTFTHead(1024, 1920, 480, "same")
    assert (config.backbone.input_channels, config.backbone.dim, config.backbone.reach) == (128, 1024, 93)
    mel = config.features
    assert isinstance(mel, MelFeatures)
    assert (config.sample_rate, mel.n_fft, mel.hop_length, mel.n_mels) == (24000, 1920, 480, 128)
    assert (mel.f_min, mel.f_max, mel.padding) == (0, 12000, "same")
    assert [getattr(mel, name) for name in ("mel_scale", "norm", "clip", "power_offset")] == [
        getattr(HIFIGAN, name) for name in ("mel_scale", "norm", "clip", "power_offset")
    ]
    described(config)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("preprocess"),
        lambda c: c["preprocess"].pop("n_fft"),
        lambda c: c["preprocess"].update(mel_mean=-4.92, mel_var=8.14),
    ],
)
def test_amphion_without_how_mels_are_made(change: Any, tmp_path: Path) -> None:
    config = json.loads(AMPHION.replace("true,\n", "true\n").replace("},\n}", "}\n}"))
    change(config)
    found = parsed(tmp_path / "config.json", json.dumps(config))
    model = described(found)
    assert (model.mel, model.encodec, model.sample_rate, model.feature_channels) == (None, None, 24000, 128)
    assert (model.n_fft, model.hop_length, model.padding, model.reach) == (1920, 480, "same", 93)
    assert ModelConfig.from_json(model.to_json()) == model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["preprocess"].update(win_size=960), r"preprocess\.win_size is 960, expected the n_fft, 1920"),
        (lambda c: c["preprocess"].update(num_mels=80), r"mel features have 80 bands but the network takes 128 ch"),
        (lambda c: c["model"]["vocos"].pop("dim"), r"model\.vocos lacks dim; its arguments are adanorm_num_embed"),
        (lambda c: c["model"]["vocos"].update(colour=1), r"model\.vocos has the unknown colour; its arguments are"),
        (lambda c: c["model"]["vocos"].update(n_fft="x"), r"head: n_fft is 'x', expected a positive multiple of 2"),
    ],
)
def test_broken_amphion(change: Any, message: str, tmp_path: Path) -> None:
    config = json.loads(AMPHION.replace("true,\n", "true\n").replace("},\n}", "}\n}"))
    change(config)
    with pytest.raises(CheckpointError, match=message):
        described(parsed(tmp_path / "config.json", json.dumps(config)))


WAVTOKENIZER = (
    r"this is a checkpoint of WavTokenizer, whose decoder is not that of Vocos: it has attention, which this v"
)


@pytest.mark.parametrize("name", ["dowmsamples", "vq_bins"])
def test_the_config_of_a_wavtokenizer(name: str, tmp_path: Path) -> None:
    config = stock()
    config["feature_extractor"] = {
        "class_path": "decoder.feature_extractors.EncodecFeatures",
        "init_args": {"encodec_model": "encodec_24khz", "bandwidths": [6.6], name: [6, 5, 5, 4]},
    }
    config["backbone"]["class_path"] = "decoder.models.VocosBackbone"
    with pytest.raises(CheckpointError, match=WAVTOKENIZER):
        parsed(tmp_path / "config.yaml", yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("model_type", "name"), [("neucodec", "NeuCodec"), ("xcodec2", "XCodec2"), ("wav_tokenizer", "WavTokenizer")]
)
def test_the_config_of_a_relative_in_transformers(model_type: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"this is a checkpoint of {name}, whose decoder is not that of Vocos"):
        parsed(tmp_path / "config.json", json.dumps({"model_type": model_type, "backbone": {}}))


def test_the_weights_of_relatives() -> None:
    check_relatives(["backbone.embed.weight", "head.out.weight"])
    with pytest.raises(CheckpointError, match=WAVTOKENIZER):
        check_relatives(["backbone.embed.weight", "backbone.pos_net.2.q.weight"])
    with pytest.raises(CheckpointError, match="a checkpoint of NeuCodec or XCodec2, whose"):
        check_relatives(["generator.backbone.embed.weight"])
