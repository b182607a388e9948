"""Training for good sound on a CPU: a frozen codec, small discriminators, a moving average, and losses of the head."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.parity.test_train import data, tree  # noqa: F401
from vocos_onnx import EncodecONNX, VocosONNX, load_audio
from vocos_onnx.evaluate.metrics import level_error
from vocos_onnx.model.bundled import default_model
from vocos_onnx_export import export
from vocos_onnx_export.modules import ISTFTHead
from vocos_onnx_train.checkpoint import write_checkpoint, write_weights
from vocos_onnx_train.config import read_config
from vocos_onnx_train.discriminators import STFTDiscriminator
from vocos_onnx_train.generator import FrozenCodec
from vocos_onnx_train.losses import MEL_BANDS, HeadLoss, MelLoss, STFTLoss, feature_matching_loss, mel_scales
from vocos_onnx_train.trainer import LAST, Trainer

CODEC = str(default_model())
ENCODER = str(default_model().with_name("vocos-codec-24khz-encoder.onnx"))
SOUND = {
    "stft_discriminator_channels": 2,
    "matching_coeff": 2.0,
    "ema": 0.9,
    "context_frames": 2,
    "same_level": True,
    "mel_loss_coeff": 0.0,
    "multi_scale_mel_coeff": 4.0,
    "mel_sizes": [64, 1024],
    "compressed_stft_coeff": 1.0,
    "phase_below": 1000.0,
    "log_amplitude_coeff": 0.5,
    "consistency_coeff": 1.0,
}


def codec(data: Path, **experiment: Any) -> dict[str, Any]:  # noqa: F811
    """A config in the geometry of the bundled codec, for 4 steps."""
    config = tree("codec", data, **{**SOUND, **experiment})
    arguments = config["model"]["init_args"]
    arguments["feature_extractor"]["init_args"]["bandwidths"] = [1.5, 3.0, 6.0, 12.0]
    arguments["backbone"]["init_args"] |= {
        "dim": 256, "intermediate_dim": 768, "num_layers": 6, "adanorm_num_embeddings": 4
    }  # fmt: skip
    arguments["head"]["init_args"]["dim"] = 256
    config["trainer"] |= {"max_steps": 8, "val_check_interval": 100, "save_every_n_steps": 3}
    config["data"]["init_args"]["train_params"] |= {"num_samples": 24 * 320, "batch_size": 2}
    config["data"]["init_args"]["train_params"]["augment"] = {"low_pass": 0.5, "quiet": 0.5, "synthetic": 0.2}
    return config


def test_the_bundled_decoder_goes_on_with_its_codec_frozen(data: Path, tmp_path: Path) -> None:  # noqa: F811
    run = Trainer(
        read_config(codec(data)), tmp_path / "run", encoder="vocos-codec-24khz-encoder", checkpoint="vocos-codec-24khz"
    )
    vocos, encoder = VocosONNX(CODEC, encoder=ENCODER), EncodecONNX(ENCODER)
    audio = load_audio(data / "speech_ja_css10_22k.wav", 24_000)[: 320 * 90]
    before = run.reconstruct(audio)
    for row, kbps in zip(before, vocos.bandwidths, strict=True):  # it starts from the audio of 0.4.0
        expected = vocos(audio, 24_000, bandwidth=kbps)
        assert np.abs(row - expected).max() < 0.02 * np.abs(expected).max()
    extractor = run.generator.feature_extractor
    assert isinstance(extractor, FrozenCodec)
    frozen = {name: value.clone() for name, value in extractor.state_dict().items()}
    run.train()
    assert all(torch.equal(value, frozen[name]) for name, value in extractor.state_dict().items())
    assert not np.array_equal(run.reconstruct(audio), before)
    # the tokens keep their meaning: the exported model decodes those of the bundled encoder
    export(str(tmp_path / "run" / "checkpoint"), tmp_path / "model.onnx")
    trained = VocosONNX(tmp_path / "model.onnx")
    assert trained.config.encodec is not None and vocos.config.encodec is not None
    assert trained.config.encodec.codebooks_sha256 == vocos.config.encodec.codebooks_sha256
    tokens = encoder.encode(audio, 24_000, 12.0)
    assert trained.decode(tokens).shape == audio.shape


def test_a_trained_model_is_exported_at_the_level_of_recordings(data: Path, tmp_path: Path) -> None:  # noqa: F811
    run = Trainer(
        read_config(codec(data)), tmp_path / "run", encoder="vocos-codec-24khz-encoder", checkpoint="vocos-codec-24khz"
    )
    head = run.generator.head
    assert isinstance(head, ISTFTHead)
    with torch.no_grad():
        head.out.bias[: head.n_fft // 2 + 1] -= np.log(2.0)  # 6 dB softer
    write_checkpoint(run.generator, run.config, tmp_path / "run" / "checkpoint")
    names = sorted(path.name for path in data.glob("speech_*.wav"))
    (data / "level.csv").write_text("file,split,speaker\n" + "".join(f"{name},train,{name}\n" for name in names))
    output = subprocess.run(
        [sys.executable, "-m", "vocos_onnx_train.level", str(tmp_path / "run" / "checkpoint"),
         str(tmp_path / "model.onnx"), str(data / "level.csv"), "--encoder", ENCODER],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    gain = re.search(rf"gain of \+([0-9.]+) dB, from {len(names)} recordings", output)
    assert gain and 4 < float(gain[1]) < 9, output
    louder = VocosONNX(tmp_path / "model.onnx")
    soft = 0.1 * load_audio(data / names[0], 24_000)  # so that no magnitude is clipped
    tokens = EncodecONNX(ENCODER).encode(soft, 24_000, 6.0)
    ratio = np.std(louder.decode(tokens)) / np.std(VocosONNX(CODEC).decode(tokens))
    assert 20 * np.log10(ratio) == pytest.approx(float(gain[1]) - 20 * np.log10(2), abs=0.02)
    errors = []
    for name in names:
        audio = load_audio(data / name, 24_000)
        for kbps in louder.bandwidths:
            copy = louder(audio, 24_000, bandwidth=kbps, encoder=EncodecONNX(ENCODER))
            errors.append(level_error(audio[: len(copy)], copy[: len(audio)], 24_000))
    assert np.median(errors) == pytest.approx(0, abs=0.5)  # loud frames are clipped a little


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("file,speaker\na.wav,b\n", "index.csv has no column split: expected file, split and speaker"),
        ("file,split,speaker\na.wav,valid,b\n", "index.csv has the split train: give recordings of training"),
        ("file,split,speaker\na.wav,train,b\n", "a.wav"),
    ],
)
def test_a_wrong_index_is_named(content: str, reason: str, data: Path, tmp_path: Path) -> None:  # noqa: F811
    run = Trainer(read_config(tree("mel", data)), tmp_path / "run")
    write_checkpoint(run.generator, run.config, tmp_path / "checkpoint")
    (tmp_path / "index.csv").write_text(content)
    command = [sys.executable, "-m", "vocos_onnx_train.level", "checkpoint", "model.onnx", "index.csv"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert reason in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "model.onnx").exists()


def test_frozen_features_are_those_of_the_encoder_of_the_file(data: Path, tmp_path: Path) -> None:  # noqa: F811
    run = Trainer(read_config(codec(data)), tmp_path / "run", encoder=ENCODER)
    extractor, encoder = run.generator.feature_extractor, EncodecONNX(ENCODER)
    audio = load_audio(data / "speech_ja_css10_22k.wav", 24_000)[: 320 * 60]
    counts = torch.tensor([2, 16, 4, 8])
    features = extractor.quantised(torch.from_numpy(audio).expand(4, -1), counts)
    codes = torch.from_numpy(encoder.encode(audio, 24_000, 12.0))[:, None].expand(-1, 4, -1)
    expected = extractor(codes, counts)
    # a token or two of the last codebooks may differ, since torch and onnxruntime round differently
    assert (features - expected).norm() < 0.05 * expected.norm()
    assert (features[0] - expected[0]).abs().max() < 1e-4


def test_the_moving_average_is_what_is_validated_and_kept(data: Path, tmp_path: Path) -> None:  # noqa: F811
    config = read_config(codec(data))
    run = Trainer(config, tmp_path / "run", encoder=ENCODER, checkpoint=CODEC)
    weights = [run.generator.get_parameter("head.out.bias").detach().clone()]
    average = weights[0].clone()
    for step in range(3):
        run.train_step()
        run.step += 1
        weights.append(run.generator.get_parameter("head.out.bias").detach().clone())
        average.lerp_(weights[-1], 1 - min(0.9, (1 + step) / (10 + step)))
    torch.testing.assert_close(run.average.get_parameter("head.out.bias"), average)
    assert not torch.equal(weights[-1], average)
    run.save(tmp_path / "run" / LAST)
    again = Trainer(config, tmp_path / "run", encoder=ENCODER)
    assert again.step == 3
    torch.testing.assert_close(again.average.get_parameter("head.out.bias"), average, rtol=0, atol=0)


def test_a_run_begins_with_the_weights_of_another(data: Path, tmp_path: Path) -> None:  # noqa: F811
    config = read_config(codec(data))
    first = Trainer(config, tmp_path / "first", encoder=ENCODER, checkpoint=CODEC)
    first.train()
    assert torch.load(tmp_path / "first" / LAST, weights_only=True)["step"] == 4
    path = tmp_path / "weights.safetensors"
    write_weights(first.average, first.discriminators, path)
    assert path.stat().st_size < 7e6
    second = Trainer(config, tmp_path / "second", encoder=ENCODER, checkpoint=str(path))
    for mine, theirs in ((second.generator, first.average), (second.discriminators, first.discriminators)):
        for (name, value), expected in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4, msg=name)
    other = read_config(codec(data, stft_discriminator_channels=3))
    with pytest.raises(ValueError, match=r"discriminators of .* does not fit the config"):
        Trainer(other, tmp_path / "third", encoder=ENCODER, checkpoint=str(path))
    with pytest.raises(FileNotFoundError, match="no model file"):
        Trainer(config, tmp_path / "third", encoder=ENCODER, checkpoint=str(tmp_path / "no.onnx"))


def test_periods_are_judged_beside_the_spectrogram(data: Path, tmp_path: Path) -> None:  # noqa: F811
    run = Trainer(read_config(codec(data, period_width=0.03)), tmp_path / "run", encoder=ENCODER, checkpoint=CODEC)
    assert set(run.discriminators) == {"stftdisc", "multiperioddisc"}
    before = {name: value.detach().clone() for name, value in run.discriminators.named_parameters()}
    run.step = run.config.experiment.pretrain_mel_steps
    losses = run.train_step()
    assert {"d_spectrum", "d_period", "g_period", "match_period"} <= set(losses)
    assert 0 < losses["match_period"] < 2  # relative to the recording's maps, as the small discriminators' is
    changed = {name: not torch.equal(value, before[name]) for name, value in run.discriminators.named_parameters()}
    assert all(changed[name] for name in changed if ".convs." in name)


def test_other_processes_draw_the_same_batches(data: Path, tmp_path: Path) -> None:  # noqa: F811
    config = codec(data)
    config["data"]["init_args"]["train_params"]["num_workers"] = 2
    run = Trainer(read_config(config), tmp_path / "run", encoder=ENCODER, checkpoint=CODEC)
    run.step, run.drawn_elsewhere = 1, True
    found = list(run._batches())
    assert len(found) == 3
    for step, batch in enumerate(found, start=1):
        for mine, expected in zip(batch, run.draw(step), strict=True):
            if mine is None or expected is None:
                assert mine is expected
            else:
                torch.testing.assert_close(mine, expected, rtol=0, atol=0)


def test_a_dense_quantiser_gives_the_same_features(data: Path, tmp_path: Path) -> None:  # noqa: F811
    """What runs on CUDA, where it must not wait for the number of items that use a codebook."""
    extractor = Trainer(read_config(codec(data)), tmp_path / "run", encoder=ENCODER).generator.feature_extractor
    assert isinstance(extractor, FrozenCodec)
    audio = torch.from_numpy(load_audio(data / "speech_ja_css10_22k.wav", 24_000)[: 320 * 60]).expand(4, -1)
    counts = torch.tensor([2, 16, 4, 8])
    torch.testing.assert_close(extractor.quantised(audio, counts, dense=True), extractor.quantised(audio, counts))


def test_the_state_is_saved_between_validations(data: Path, tmp_path: Path) -> None:  # noqa: F811
    saved: list[int] = []
    run = Trainer(read_config(codec(data)), tmp_path / "run", encoder=ENCODER, checkpoint=CODEC)
    save = run.save
    run.save = lambda path: (saved.append(run.step), save(path))[1]  # type: ignore[method-assign, func-returns-value]
    run.train()
    assert saved[0] == 3


def test_several_lists_are_one(data: Path, tmp_path: Path) -> None:  # noqa: F811
    more = tmp_path / "more"
    more.mkdir()
    audio = load_audio(data / "speech_ja_css10_22k.wav", 24_000)
    soundfile.write(more / "other.wav", audio, 24_000)
    with (more / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "split", "speaker"), ("other.wav", "train", "other")])
    config = read_config(codec(data), train=[str(data / "index.csv"), str(more / "index.csv")])
    run = Trainer(config, tmp_path / "run", encoder=ENCODER)
    assert [Path(name).name for name in run.clips.names][-1] == "other.wav"
    assert len(run.clips.names) == 3


def test_quiet_crops_count_as_loud_ones_do(data: Path, tmp_path: Path) -> None:  # noqa: F811
    config = codec(data)
    config["data"]["init_args"]["train_params"] |= {"gain_db": [-20.0, -1.0], "augment": {"quiet": 1.0}}
    run = Trainer(read_config(config), tmp_path / "run", encoder=ENCODER, checkpoint=CODEC)
    audio, _, level = run.clips.batch(np.random.default_rng(0))
    assert (level < 10 ** (-17 / 20)).all() and (level > 10 ** (-57.1 / 20)).all()
    assert ((audio / level).abs().amax(1) <= 10 ** (-3 / 20) + 1e-4).all()


def test_the_losses_of_the_head() -> None:
    """The recording's own STFT has almost no loss; inconsistent frames have a large consistency loss."""
    loss, audio = HeadLoss(1280, 320, "same"), 0.1 * torch.randn(2, 320 * 20)
    padded = torch.nn.functional.pad(audio[:, None], (480, 480), "reflect")[:, 0]
    spectrum = torch.stft(padded, 1280, 320, window=torch.hann_window(1280), center=False, return_complex=True)
    spectrum = torch.view_as_real(spectrum.transpose(1, 2))
    assert spectrum.shape == (2, 20, 641, 2)
    same = loss(spectrum, audio, audio, 3)
    assert same["log_amplitude"] < 1e-4
    assert same["consistency"] < 5e-3
    louder = loss(2 * spectrum, 2 * audio, audio, 3)
    assert louder["log_amplitude"] == pytest.approx(np.log(2), abs=0.01)
    turned = spectrum * torch.tensor([1.0, -1.0]).repeat(10)[None, :, None, None]  # negates the odd frames
    assert loss(turned, audio, audio, 3)["consistency"] > 0.3
    assert loss(turned, audio, audio, 3)["log_amplitude"] < 1e-4


def test_above_a_frequency_phase_does_not_count() -> None:
    time = torch.arange(24_000) / 24_000
    low, high = (torch.sin(2 * torch.pi * f * time)[None] for f in (500, 6000))
    shifted = torch.cos(2 * torch.pi * 6000 * time)[None]
    whole, below = STFTLoss(24_000), STFTLoss(24_000, 1000.0)
    assert whole(low + shifted, low + high)["compressed_stft"] > 3 * below(low + shifted, low + high)["compressed_stft"]
    assert below(-low + high, low + high)["compressed_stft"] > 0.1


def test_short_scales_hear_what_long_ones_do_not() -> None:
    """A 75 Hz modulation of noise, which keeps its spectrum, raises the loss of short scales more than of long ones."""
    noise = 0.1 * torch.randn(1, 48_000)
    buzz = noise * (1 + 0.9 * torch.sin(2 * torch.pi * 75 * torch.arange(48_000) / 24_000))
    short, long = (MelLoss(24_000, *mel_scales(24_000, [n_fft])) for n_fft in (64, 2048))
    again = 0.1 * torch.randn(1, 48_000)
    gain = [float(loss(buzz, again) / loss(noise, again)) for loss in (short, long)]
    assert gain[0] > 1.05 * gain[1]
    for n_fft, bands in MEL_BANDS.items():
        (mel,) = mel_scales(24_000, [n_fft])
        assert (mel.n_fft, mel.n_mels) == (n_fft, bands)


def test_small_discriminators_learn_to_tell(data: Path, tmp_path: Path) -> None:  # noqa: F811
    torch.manual_seed(0)
    judge = STFTDiscriminator(512, None, 4)
    optimizer = torch.optim.AdamW(judge.parameters(), 1e-2)
    time = torch.arange(12_000) / 24_000
    for _ in range(30):
        real = torch.sin(2 * torch.pi * (300 + 500 * torch.rand(4, 1)) * time)
        fake = real + 0.1 * torch.randn(4, 12_000)
        loss = (1 - judge(real)[0]).relu().mean() + (1 + judge(fake)[0]).relu().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5


def test_relative_matching_does_not_depend_on_the_size_of_the_maps() -> None:
    real, fake = [(torch.zeros(2, 1), [torch.randn(2, 3, 4)]) for _ in range(2)]
    louder, copied = ([(s, [10 * m for m in maps])] for s, maps in (real, fake))
    plain = feature_matching_loss([real], [fake])
    assert feature_matching_loss(louder, copied) == pytest.approx(10 * float(plain), rel=1e-4)
    relative = feature_matching_loss([real], [fake], relative=True)
    assert feature_matching_loss(louder, copied, relative=True) == pytest.approx(float(relative), rel=1e-2)


def test_the_losses_of_the_head_are_for_an_istft_head(data: Path, tmp_path: Path) -> None:  # noqa: F811
    config = tree("mel", data, consistency_coeff=1.0)
    config["model"]["init_args"]["head"] = {
        "class_path": "vocos.heads.IMDCTCosHead",
        "init_args": {"dim": 16, "mdct_frame_len": 512, "padding": "center"},
    }
    with pytest.raises(ValueError, match="consistency_coeff are for an ISTFTHead; set them to 0"):
        Trainer(read_config(config), tmp_path / "run")
