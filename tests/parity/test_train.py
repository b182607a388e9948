"""A few training steps of each task: the network learns, a stopped run resumes, and its checkpoint can be exported."""

from __future__ import annotations

import copy
import csv
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Never

import numpy as np
import pytest
import soundfile
import torch
import yaml

import vocos_onnx_train
from tests.helpers import DATA
from tests.parity.upstream import build, save
from vocos_onnx import EncodecONNX, VocosONNX, load_audio
from vocos_onnx.cli import main
from vocos_onnx.evaluate.metrics import pesq_wb
from vocos_onnx.model.bundled import default_model
from vocos_onnx_export import export
from vocos_onnx_train.codec import nearest
from vocos_onnx_train.config import load_config, read_config
from vocos_onnx_train.data import EQ_BANDS, EQ_OCTAVES, Clips, change_speed, equalize
from vocos_onnx_train.losses import LoudnessLoss, STFTLoss
from vocos_onnx_train.progress import Heartbeat
from vocos_onnx_train.trainer import BEST, LAST, Trainer

ENCODER = str(DATA / "encoder.onnx")
CONFIGS = Path(vocos_onnx_train.__file__).parent / "configs"
FEATURES = "vocos.feature_extractors."
TASKS = ("mel", "tokens", "codec")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speech decoded by the bundled model: two clips for training, one for validation."""
    folder = tmp_path_factory.mktemp("data")
    vocos = VocosONNX()
    rows = []
    splits = ("train", "train", "valid")
    for path, split in zip(sorted(default_model().parent.glob("speech_*.npz")), splits, strict=True):
        with np.load(path) as archive:
            audio = vocos.decode(archive["tokens"]).clip(-1, 1)
        soundfile.write(folder / f"{path.stem}.wav", audio, vocos.sample_rate)
        rows.append({"file": f"{path.stem}.wav", "split": split, "speaker": path.stem})
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder


def tree(task: str, data: Path, **experiment: Any) -> dict[str, Any]:
    """The YAML tree of a config with a small network for the task: 12 steps, with the state saved every 4."""
    index = str(data / "index.csv")
    files = {"filelist_path": index, "sampling_rate": 24000, "num_samples": 7680, "batch_size": 4}
    hop, n_fft, channels = (256, 1024, 16) if task == "mel" else (320, 1280, 8 if task == "tokens" else 64)
    backbone = {"input_channels": channels, "dim": 16, "intermediate_dim": 24, "num_layers": 1}
    if task == "mel":
        features = {
            "class_path": FEATURES + "MelSpectrogramFeatures",
            "init_args": {"n_mels": 16, "n_fft": n_fft, "hop_length": hop, "padding": "center"},
        }
    else:
        codec = "encodec_24khz" if task == "tokens" else "vocos_onnx_24khz"
        features = {
            "class_path": FEATURES + "EncodecFeatures",
            "init_args": {"encodec_model": codec, "bandwidths": [0.75, 1.5]},
        }
        backbone["adanorm_num_embeddings"] = 2
    padding = "center" if task == "mel" else "same"
    model = {
        "sample_rate": 24000,
        "initial_learning_rate": 2e-3,
        "discriminator_width": 0.03,
        "pretrain_mel_steps": 2,
        "evaluate_pesq": True,
        "feature_extractor": features,
        "backbone": {"class_path": "vocos.models.VocosBackbone", "init_args": backbone},
        "head": {
            "class_path": "vocos.heads.ISTFTHead",
            "init_args": {"dim": 16, "n_fft": n_fft, "hop_length": hop, "padding": padding},
        },
        **experiment,
    }
    kind = "VocosExp" if task == "mel" else "VocosEncodecExp"
    return {
        "seed_everything": 1,
        "data": {
            "class_path": "vocos.dataset.VocosDataModule",
            "init_args": {
                "train_params": {**files, "split": "train"},
                "val_params": {**files, "split": "valid", "num_samples": 48640 if task == "mel" else 48000},
            },
        },
        "model": {"class_path": f"vocos.experiment.{kind}", "init_args": model},
        "trainer": {"max_steps": 24, "log_every_n_steps": 1, "val_check_interval": 4, "accelerator": "cpu"},
    }


def trainer(
    task: str, data: Path, out: Path, report: Callable[[str], None] = print, config: Any = None, **given: Any
) -> Trainer:
    encoder = ENCODER if task == "tokens" else None
    return Trainer(read_config(config or tree(task, data)), out, encoder=encoder, report=report, **given)


def bias_of_the_head(run: Trainer) -> torch.Tensor:
    return run.generator.get_parameter("head.out.bias")


def mel_losses(lines: list[str]) -> list[float]:
    """The mel losses in the progress lines."""
    return [float(line.split(" mel ")[1].split()[0]) for line in lines if " mel " in line]


@pytest.mark.parametrize("task", TASKS)
def test_it_learns(task: Any, data: Path, tmp_path: Path) -> None:
    config = tree(task, data)
    config["trainer"] |= {"max_steps": 80, "val_check_interval": 40}
    lines: list[str] = []
    trainer(task, data, tmp_path, lines.append, config).train()
    losses = mel_losses(lines)
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert sum("d_period" in line for line in lines) == 38  # the discriminators train from step 2 on
    with (tmp_path / "log.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["step"] == "40"
    names = ["pesq", "stoi", "mel_distance"]
    suffixes = [""] if task == "mel" else ["_0.75kbps", "_1.5kbps"]
    assert list(row) == ["step", "seconds", *(name + suffix for name in names for suffix in suffixes)]
    assert all(1 <= float(row["pesq" + suffix]) <= 4.65 for suffix in suffixes)
    assert list(tmp_path.glob("events.out.tfevents*"))


@pytest.mark.parametrize("task", TASKS)
def test_going_on_is_the_same_as_not_having_stopped(task: Any, data: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer(task, data, whole).train()

    def stop(line: str) -> None:
        if line.startswith("step 7/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(task, data, parts, stop).train()
    lines: list[str] = []
    second = trainer(task, data, parts, lines.append)
    assert second.step == 7
    assert "going on from step 7" in lines
    second.train()
    one, other = (torch.load(p / LAST, weights_only=True) for p in (whole, parts))
    assert one["step"] == other["step"] == 12
    for part in ("generator", "discriminators"):
        for key, value in one[part].items():
            torch.testing.assert_close(value, other[part][key], rtol=0, atol=1e-6)
    with (parts / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["4", "8", "12"]


@pytest.mark.parametrize("task", TASKS)
def test_the_exported_model_decodes_like_the_trained_one(
    task: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tree(task, data)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    out, model = tmp_path / "run", tmp_path / "model.onnx"
    arguments = ["train", tmp_path / "config.yaml", "--out", out, "--steps", 2, "--export", model]
    assert main([*map(str, arguments), *(["--encoder", ENCODER] if task == "tokens" else [])]) == 0
    assert "step 2/2" in capsys.readouterr().out
    encoders: dict[str, str | Path] = {"tokens": ENCODER, "codec": tmp_path / "model-encoder.onnx"}
    encoder = encoders.get(task)
    vocos = VocosONNX(model, encoder=encoder)
    config["trainer"]["max_steps"] = 4
    trained = trainer(task, data, out, config=config)
    assert trained.step == 2
    trained.generator.eval()
    audio = load_audio(data / "speech_ja_css10_22k.wav", 24000)[: 100 * vocos.hop_length]
    expected = trained.reconstruct(audio)
    assert len(expected) == (1 if task == "mel" else 2)
    for i, row in enumerate(expected):
        given = vocos(audio, 24000, bandwidth=None if task == "mel" else vocos.bandwidths[i])
        assert given.shape == row.shape
        assert np.abs(given - row).max() <= 1e-4 * np.abs(row).max()


def test_the_best_weights_are_written(data: Path, tmp_path: Path) -> None:
    def worsen(line: str) -> None:
        if line.startswith("step 8: "):
            with torch.no_grad():
                bias_of_the_head(first).fill_(5)

    config = tree("mel", data, initial_learning_rate=1e-5)  # good weights, so that the change is for the worse
    arguments = config["model"]["init_args"]
    arguments["feature_extractor"]["init_args"]["n_mels"] = 100
    arguments["backbone"]["init_args"] = {
        "input_channels": 100, "dim": 256, "intermediate_dim": 768, "num_layers": 6
    }  # fmt: skip
    arguments["head"]["init_args"]["dim"] = 256
    first = trainer("mel", data, tmp_path, worsen, config, checkpoint="vocos-mel-24khz-small")
    first.train()
    best = torch.load(tmp_path / BEST, weights_only=True)
    assert best["step"] <= 8
    written = torch.load(tmp_path / "checkpoint" / "pytorch_model.bin", weights_only=True)
    assert torch.equal(written["head.out.bias"], best["generator"]["head.out.bias"])
    with (tmp_path / "log.csv").open() as file:
        scores = {int(row["step"]): float(row["pesq"]) for row in csv.DictReader(file)}
    assert best["step"] == max(scores, key=lambda step: scores[step])


def test_a_checkpoint_is_a_beginning(data: Path, tmp_path: Path) -> None:
    """A run can start from the checkpoint of another, including the weights of the codec's encoder."""
    for task in TASKS:
        first = trainer(task, data, tmp_path / task)
        first.config = replace(first.config, run=replace(first.config.run, max_steps=2))
        first.train()
        second = trainer(task, data, tmp_path / f"{task}-2", checkpoint=str(tmp_path / task / "checkpoint"))
        for key, value in first.generator.state_dict().items():
            if "quantizer.counts" not in key and "quantizer.sums" not in key:
                torch.testing.assert_close(second.generator.state_dict()[key], value, rtol=0, atol=0)
    (tmp_path / "codec" / "checkpoint" / "encoder.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"encoder\.safetensors"):
        trainer("codec", data, tmp_path / "x", checkpoint=str(tmp_path / "codec" / "checkpoint"))


def test_fine_tuning_begins_with_upstream_weights(data: Path, tmp_path: Path) -> None:
    """With the weights of an upstream model, here also a residual network, the trainer's audio equals upstream's."""
    for name, backbone in (
        ("plain", None),
        (
            "resnet",
            {
                "class_path": "vocos.models.VocosResNetBackbone",
                "init_args": {"input_channels": 16, "dim": 16, "num_blocks": 2},
            },
        ),
    ):
        config = tree("mel", data)
        arguments = config["model"]["init_args"]
        if backbone:
            arguments["backbone"] = backbone
        model = build({part: arguments[part] for part in ("feature_extractor", "backbone", "head")})
        folder = save(model, {k: arguments[k] for k in ("feature_extractor", "backbone", "head")}, tmp_path / name)
        ours = trainer("mel", data, tmp_path / f"{name}-run", checkpoint=str(folder), config=config)
        audio = torch.randn(2, 7680) * 0.1
        with torch.no_grad():
            given = ours.generator(audio).audio
            expected = model(audio)
        assert given.shape == expected.shape
        assert (given - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize("on_the_fly", [True, False])
def test_tokens_are_those_of_the_audio(on_the_fly: bool, data: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    cache = None if on_the_fly else tmp_path / "cache"
    first = trainer("tokens", data, tmp_path / "run", lines.append, token_cache=cache)
    if on_the_fly:
        audio, codes, _ = first.clips.batch(np.random.default_rng(0))
        assert codes is None
        return
    assert f"tokens: 2 files encoded, 0 from {cache}" in lines
    encoder = EncodecONNX(ENCODER)
    audio, codes, _ = first.clips.batch(np.random.default_rng(0))
    assert codes is not None
    assert codes.shape == (2, 4, 24)
    for clip in first.clips.clips:
        peak = np.abs(clip.astype(np.int32)).max()
        whole = clip.astype(np.float32) / peak * np.float32(10 ** (-3 / 20))
        whole_codes = encoder.encode(whole, 24000, 1.5)
        for row in range(4):
            found = np.correlate(whole, audio[row].numpy(), "valid")
            start = int(found.argmax())
            if np.abs(whole[start : start + 7680] - audio[row].numpy()).max() < 1e-4:
                assert start % 320 == 0
                same = whole_codes[:, start // 320 : start // 320 + 24] == codes[:, row].numpy()
                assert same.mean() > 0.95  # rounding to 16 bits can change a few codes
                break
        else:
            continue
        break
    else:
        pytest.fail("no crop was found in the clips")
    assert cache is not None
    damaged = next(iter(cache.glob("*.npz")))
    damaged.write_bytes(damaged.read_bytes()[:100])
    trainer("tokens", data, tmp_path / "run2", lines.append, token_cache=cache)
    assert lines[-1] == f"tokens: 1 files encoded, 1 from {cache}"


def test_a_full_disk_leaves_the_last_state_whole(data: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    config = tree("mel", data)
    config["trainer"]["max_steps"] = 8
    trainer("mel", data, tmp_path, lines.append, config).train()
    whole = (tmp_path / LAST).read_bytes()
    config["trainer"]["max_steps"] = 16
    going_on = trainer("mel", data, tmp_path, lines.append, config)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot save .*last\.pt .*what was there is whole"):
            going_on.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / LAST).read_bytes() == whole
    assert not list(tmp_path.glob(".vocos-*"))


def test_nan_stops_it_and_the_last_good_state_stays(data: Path, tmp_path: Path) -> None:
    def spoil(line: str) -> None:
        if line.startswith("step 6/"):
            with torch.no_grad():
                bias_of_the_head(bad)[0] = float("nan")

    config = tree("mel", data)
    config["trainer"]["log_every_n_steps"] = 3
    bad = trainer("mel", data, tmp_path, spoil, config)
    with pytest.raises(FloatingPointError, match=r"not finite at step 6; .*last\.pt is the last good state"):
        bad.train()
    state = torch.load(tmp_path / LAST, weights_only=True)
    assert state["step"] == 4
    assert all(torch.isfinite(v).all() for v in state["generator"].values())


def test_interrupted_by_the_user_exit_code_130(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree("mel", data)))

    def interrupt(self: object, drawn: object) -> Never:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train_step", interrupt)
    assert main(["train", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]) == 130
    assert "Traceback" not in capsys.readouterr().err


def same_weights(*runs: Path) -> bool:
    one, other = (torch.load(run / LAST, weights_only=True) for run in runs)
    return one["step"] == other["step"] and all(
        torch.allclose(value, other[part][key], rtol=0, atol=1e-6)
        for part in ("generator", "discriminators")
        for key, value in one[part].items()
    )


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "in a step"),
        (signal.SIGTERM, "in a step"),
        (signal.SIGHUP, "in a step"),
        (signal.SIGTERM, "in a validation"),
    ],
)
def test_a_signal_saves_and_the_run_goes_on_exactly(number: Any, moment: str, data: Path, tmp_path: Path) -> None:
    config = tree("mel", data)
    config["trainer"] |= {"max_steps": 12, "val_check_interval": 3}
    config["data"]["init_args"]["val_params"] |= {"filelist_path": str(data), "split": None, "num_samples": 24320}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer("mel", data, whole, config=config).train()
    lines: list[str] = []
    stopped = trainer("mel", data, parts, lines.append, config)
    before = signal.getsignal(number)
    clips, name, calls = (stopped.clips, "batch", 5) if moment == "in a step" else (stopped.valid, "whole", 1)
    reads, handlers = getattr(clips, name), []

    def read(argument: Any) -> Any:
        handlers.append(signal.getsignal(number))
        if len(handlers) == calls:
            os.kill(os.getpid(), number)
            handlers.append(signal.getsignal(number))
        return reads(argument)

    setattr(clips, name, read)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as ended:
        stopped.train()
    assert number == signal.SIGINT or (isinstance(ended.value, SystemExit) and ended.value.code == 128 + number)
    assert handlers[0] != before
    assert handlers[-1] == before  # a second signal has its original effect
    assert signal.getsignal(number) == before
    step = 5 if moment == "in a step" else 3  # the step in progress is completed
    assert f"{signal.Signals(number).name}: stopping after this step; once more stops at once" in lines
    assert lines[-1] == f"stopped at step {step}; the same command goes on from there"
    trainer("mel", data, parts, lines.append, config).train()
    assert f"going on from step {step}" in lines
    assert same_weights(whole, parts)
    tables = [list(csv.DictReader((run / "log.csv").read_text().splitlines())) for run in (whole, parts)]
    assert [[row["step"] for row in table] for table in tables] == [["3", "6"]] * 2
    assert tables[0][0]["pesq"] == tables[1][0]["pesq"]


def test_what_is_ignored_stays_ignored(data: Path, tmp_path: Path) -> None:
    """A signal that was already ignored, as under nohup, stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        config = tree("mel", data)
        config["trainer"]["max_steps"] = 4
        run = trainer("mel", data, tmp_path, lambda line: os.kill(os.getpid(), signal.SIGHUP), config)
        run.train()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert run.step == 2


def test_in_a_thread_no_handlers_are_set(data: Path, tmp_path: Path) -> None:
    """Only the main thread may set signal handlers, so training in another thread sets none."""
    config = tree("mel", data)
    config["trainer"]["max_steps"] = 4
    run = trainer("mel", data, tmp_path, config=config)
    thread = threading.Thread(target=run.train)
    thread.start()
    thread.join(120)
    assert run.step == 2
    assert (tmp_path / "checkpoint").is_dir()


def test_the_program_saves_when_it_is_told_to_end(data: Path, tmp_path: Path) -> None:
    """On SIGTERM and on Ctrl-C; a closed stdout does not stop the run, and SIGTERM still saves."""
    config = tree("mel", data)
    config["trainer"] |= {"max_steps": 20_000, "val_check_interval": 100_000}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "vocos_onnx", "train", "config.yaml", "--out", "run"]
    step = 0
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (None, 143)):
        with subprocess.Popen(
            command, cwd=tmp_path, env=absolute(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as run:
            try:
                assert run.stdout and run.stderr
                lines = []
                for line in run.stdout:
                    lines.append(line)
                    if line.startswith(f"step {step + 3}/"):
                        break
                if number is None:
                    run.stdout.close()
                    with pytest.raises(subprocess.TimeoutExpired):
                        run.wait(3)
                    run.send_signal(signal.SIGTERM)
                else:
                    run.send_signal(number)
                    lines += run.stdout
                error = run.stderr.read()
                assert run.wait(60) == code, error
            finally:
                run.kill()
        assert "Traceback" not in error
        assert step == 0 or f"going on from step {step}\n" in lines
        saved = torch.load(tmp_path / "run" / LAST, weights_only=True)["step"]
        assert saved >= step + 3
        assert number is None or lines[-1].startswith(f"stopped at step {saved};")
        step = saved


def absolute() -> dict[str, str]:
    """The environment with an absolute PYTHONPATH, for use in another working directory."""
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, **({"PYTHONPATH": os.path.abspath(path)} if path else {})}  # noqa: PTH100


def test_progress_is_said_before_the_first_step_and_after_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    config = tree("mel", data)
    config["trainer"] |= {"max_steps": 6, "log_every_n_steps": 100, "val_check_interval": 100}
    trainer("mel", data, tmp_path / "run", lines.append, config).train()
    index = data / "index.csv"
    assert lines[:2] == [f"{index}: reading 2 files", f"{index}: 2 files, 0.00 h"]
    assert [line.split()[1] for line in lines if line.startswith("step ") and "steps/s" in line] == ["1/3", "3/3"]
    assert next(line for line in lines if line.startswith("step 1/3 ")).endswith(" left")
    monkeypatch.setattr(Heartbeat, "SECONDS", 0.0)  # as if every file and step were slow
    lines.clear()
    trainer("mel", data, tmp_path / "slow", lines.append, config).train()
    assert f"{index}: read 1 of 2 files" in lines
    assert "validated 0 of 1 files" in lines
    assert [line.split()[1] for line in lines if "steps/s" in line] == ["1/3", "2/3", "3/3"]


def test_bad_files_are_skipped_and_said(data: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    good = load_audio(data / "speech_ja_css10_22k.wav", 24000)
    for name, audio, rate in (
        ("good", good, 24000),
        ("high", np.repeat(good, 2), 48000),
        ("low", good, 16000),
        ("short", good[:100], 24000),
        ("silent", np.zeros(48000), 24000),
    ):
        soundfile.write(tmp_path / f"{name}.wav", audio, rate)
    (tmp_path / "damaged.flac").write_bytes(b"fLaC" + bytes(100))
    (tmp_path / "list.txt").write_text(
        "\n".join(
            ["good.wav", str(tmp_path / "high.wav"), "", "low.wav", "short.wav", "silent.wav", "damaged.flac", "no"]
        )
    )
    for source in (tmp_path, tmp_path / "list.txt"):
        lines.clear()
        config = tree("mel", data)
        config["data"]["init_args"]["train_params"] |= {"filelist_path": str(source), "split": None}
        clips = Clips(read_config(config).train, torch.device("cpu"), lines.append)
        assert sorted(Path(name).stem for name in clips.names) == ["good", "high"]
        said = "\n".join(lines)
        for what in (
            "low.wav: 16000 Hz is below",
            "short.wav: 100 samples",
            "silent.wav: it is silent",
            "damaged.flac",
        ):
            assert what in said
        assert ("no audio file" in said) == (source != tmp_path)
    for name in ("good", "high"):
        (tmp_path / f"{name}.wav").unlink()
    with pytest.raises(ValueError, match=r"no audio that can be used; 4 files were skipped"):
        Clips(replace(read_config(config).train, filelist_path=str(tmp_path)), torch.device("cpu"), lines.append)


def test_crops(data: Path) -> None:
    """Crops are reproducible, their peaks stay within the gain range, and short clips repeat to fill a crop."""
    config = read_config(tree("mel", data)).train
    clips = Clips(replace(config, num_samples=1_000_000 // 256 * 256), torch.device("cpu"), print)
    audio, codes, _ = clips.batch(np.random.default_rng(0))
    assert codes is None
    assert audio.shape == (4, 1_000_000 // 256 * 256)
    peaks = 20 * audio.abs().amax(1).log10()
    assert (peaks >= -6.01).all()
    assert (peaks <= -0.99).all()
    length = next(n for n in clips.lengths if torch.allclose(audio[0, :1000], audio[0, n : n + 1000]))
    assert torch.allclose(audio[0, :-length], audio[0, length:])
    again, _, _ = clips.batch(np.random.default_rng(0))
    assert torch.equal(audio, again)


def test_speed_changes_pitch_and_duration_together() -> None:
    tone = torch.sin(2 * torch.pi * 1000 / 24000 * torch.arange(24000))[None]
    faster = change_speed(tone, 20000)
    expected = torch.sin(2 * torch.pi * 1200 / 24000 * torch.arange(20000))[None]
    assert (faster - expected)[:, 1000:-1000].abs().max() < 1e-3


def test_the_equaliser() -> None:
    """With two tones in the middle of two bands, raising one band makes only its tone louder."""
    time = torch.arange(24_000) / 24_000
    frequencies = [12_000 / 2 ** (EQ_OCTAVES * (EQ_BANDS - 1 - band)) for band in (2, 5)]
    low, high = (torch.sin(2 * torch.pi * round(f) * time)[None] for f in frequencies)
    gain_db = np.zeros((1, EQ_BANDS))
    assert (equalize(low + high, gain_db) - (low + high)).abs().max() < 1e-5
    gain_db[0, 5] = 6.0206
    assert (equalize(low + high, gain_db) - (low + 2 * high)).abs().max() < 1e-2


def test_crops_through_the_equaliser(data: Path, tmp_path: Path) -> None:
    config = tree("mel", data)
    config["data"]["init_args"]["train_params"] |= {"eq_db": 12.0, "gain_db": [-6.0, -6.0]}
    plain, equalised = (
        Clips(replace(read_config(config).train, eq_db=db), torch.device("cpu"), print).batch(np.random.default_rng(0))[
            0
        ]
        for db in (0.0, 12.0)
    )
    assert plain.shape == equalised.shape
    assert torch.isfinite(equalised).all()
    levels = (equalised.square().mean(1) / plain.square().mean(1)).log10() * 10
    assert levels.abs().max() < 12 and levels.abs().min() > 0


def test_loudness_is_what_pesq_hears() -> None:
    """The loss's score tracks that of the pesq package on speech decoded from fewer codebooks."""
    vocos, loss = VocosONNX(), LoudnessLoss(24_000)
    scores, expected = [], []
    for path in sorted(default_model().parent.glob("speech_*.npz")):
        with np.load(path) as archive:
            tokens = archive["tokens"]
        whole = vocos.decode(tokens)
        for count in (2, 4, 8):
            copy = vocos.decode(tokens[:count])
            disturbance = float(loss(torch.from_numpy(copy)[None], torch.from_numpy(whole)[None]))
            scores.append(0.999 + 4 / (1 + np.exp(-1.3669 * (4.5 - disturbance) + 3.8224)))  # P.862.2
            expected.append(pesq_wb(whole, copy, 24_000))
    assert np.corrcoef(scores, expected)[0, 1] > 0.95
    assert np.abs(np.subtract(scores, expected)).max() < 0.5
    quiet = torch.zeros(2, 7680, requires_grad=True)
    target = 0.1 * torch.randn(2, 7680)
    assert loss(target, target) < 1e-4
    for estimate in (quiet, (target + 0.01 * torch.randn(2, 7680)).requires_grad_()):
        (gradient,) = torch.autograd.grad(loss(estimate, target), estimate)
        assert torch.isfinite(gradient).all()


def test_phase_counts_by_bandwidth(data: Path, tmp_path: Path) -> None:
    """With phase weight 0 for the first bandwidth, its items do not count."""
    loss = STFTLoss(24_000)
    x, y = torch.randn(2, 2, 7680)
    both = loss(x, y)
    one = loss(x, y, torch.tensor([0.0, 1.0]))
    alone = loss(x[1:], y[1:])
    for name in ("stft", "compressed_stft"):
        assert torch.allclose(one[name], alone[name] / 2)
    assert torch.equal(one["compressed_magnitude"], both["compressed_magnitude"])
    config = tree("codec", data, bandwidth_phase=[0, 1], stft_coeff=1.0)
    trained = trainer("codec", data, tmp_path / "run", config=config)
    assert trained.phase.tolist() == [0, 1]
    trained.train_step()


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        (
            "VocosResNetBackbone",
            {"class_path": "vocos.heads.ISTFTHead", "init_args": {"n_fft": 1024, "hop_length": 256}},
        ),
        ("VocosBackbone", {"class_path": "vocos.heads.IMDCTCosHead", "init_args": {"mdct_frame_len": 512}}),
        (
            "VocosBackbone",
            {"class_path": "vocos.heads.IMDCTSymExpHead", "init_args": {"mdct_frame_len": 512, "sample_rate": 24000}},
        ),
    ],
)
def test_other_backbones_and_heads_train_and_export(backbone: str, head: Any, data: Path, tmp_path: Path) -> None:
    config = tree("mel", data)
    config["trainer"] |= {"max_steps": 8, "val_check_interval": 4}
    arguments = config["model"]["init_args"]
    arguments["head"] = {**head, "init_args": {"dim": 16, "padding": "center", **head["init_args"]}}
    if backbone == "VocosResNetBackbone":
        arguments["backbone"] = {
            "class_path": f"vocos.models.{backbone}",
            "init_args": {"input_channels": 16, "dim": 16, "num_blocks": 2},
        }
    run = trainer("mel", data, tmp_path, config=config)
    before = {name: parameter.detach().clone() for name, parameter in run.generator.named_parameters()}
    run.train()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in run.generator.named_parameters())
    export(str(tmp_path / "checkpoint"), tmp_path / "model.onnx")
    vocos = VocosONNX(tmp_path / "model.onnx")
    audio = load_audio(data / "speech_ja_css10_22k.wav", 24000)[: 100 * 256]
    run.generator.load_state_dict(torch.load(tmp_path / BEST, weights_only=True)["generator"])
    run.generator.eval()
    (expected,) = run.reconstruct(audio)
    assert np.abs(vocos(audio, 24000) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_nearest_is_the_nearest() -> None:
    vectors, codebook = torch.randn(50, 64), torch.randn(1024, 64)
    assert torch.equal(nearest(vectors, codebook), torch.cdist(vectors, codebook).argmin(1))


def test_the_configs_of_the_project_load(data: Path) -> None:
    index = str(data / "index.csv")
    paths = sorted(CONFIGS.glob("*.yaml"))
    assert len(paths) >= 5
    for path in paths:
        config = load_config(path, train=index, valid=index)
        assert config.steps >= 1000
        assert config.valid.filelist_path == index
        with pytest.raises(ValueError, match=r"train_params: filelist_path is not filled in; .* pass --train"):
            load_config(path)


def test_bundled_configs_by_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # without config files
    index = str(data / "index.csv")
    for path in sorted(CONFIGS.glob("*.yaml")):
        for name in (path.stem, path.name):
            assert load_config(Path(name), train=index, valid=index) == load_config(path, train=index, valid=index)
    Path("vocos-mel-24khz").mkdir()  # a checkpoint folder may have this name
    arguments = ["--train", "nowhere", "--valid", "nowhere", "--out", "run", "--device", "cpu"]
    assert main(["train", "vocos-mel-24khz", *arguments]) == 2
    assert "no filelist or folder nowhere" in capsys.readouterr().err
    # for a folder, the config's split is ignored
    of_folder = load_config(Path("bundled-codec-1"), train=str(data), valid=index)
    assert (of_folder.train.split, of_folder.valid.split) == (None, "valid")
    Path("bundled-mel.yaml").write_text("data: {}\n")  # an existing file takes precedence
    for name, message in (
        ("vocos-mel", r"no config vocos-mel; .* one of bundled-codec-1, .*, vocos-mel-24khz"),
        (
            "train/vocos_onnx_train/configs/bundled-mel.yaml",
            r"no config train/vocos_onnx_train/configs/bundled-mel.yaml; .* one of bundled-codec-1",
        ),
        ("bundled-mel.yaml", r"bundled-mel.yaml: the config lacks model, trainer"),
    ):
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            load_config(Path(name))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_the_cpu_stands_in_for_a_gpu_of_the_config(accelerator: str, data: Path, tmp_path: Path) -> None:
    config = tree("mel", data)
    config["trainer"] |= {"accelerator": accelerator, "max_steps": 2}
    lines: list[str] = []
    run = trainer("mel", data, tmp_path, lines.append, config)
    run.train()
    assert run.device.type == "cpu"
    said = f"the config's accelerator is {accelerator}, and torch finds no CUDA device: training on the CPU"
    assert lines.count(said) == 1
    for device in ("gpu", "cuda"):
        with pytest.raises(ValueError, match=rf"device is '{device}', and torch finds no CUDA device"):
            trainer("mel", data, tmp_path, lines.append, config, device=device)


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    *parents, key = path.split("/")

    def apply(config: dict[str, Any]) -> None:
        for parent in parents:
            config = config[parent]
        config[key] = value

    return apply


MODEL, TRAIN = "model/init_args", "data/init_args/train_params"


def loudness_at_8_khz(config: dict[str, Any]) -> None:
    for path in (TRAIN, "data/init_args/val_params"):
        change(f"{path}/sampling_rate", 8000)(config)
    for path, value in (("sample_rate", 8000), ("loudness_coeff", 0.4)):
        change(f"{MODEL}/{path}", value)(config)


BAD_CONFIGS = {
    "unknown section": (change("optimizer", {}), r"the config has the unknown key optimizer"),
    "unknown key": (change(f"{TRAIN}/shuffle", True), r"train_params: .*unexpected keyword argument 'shuffle'"),
    "unknown argument": (change(f"{MODEL}/lr", 1), r"model.init_args: .*unexpected keyword argument 'lr'"),
    "unknown trainer key": (
        change("trainer/amp_backend", "x"),
        r"trainer: .*unexpected keyword argument 'amp_backend'",
    ),
    "class of data": (change("data/class_path", "my.Data"), r"data class my.Data is not supported"),
    "class of model": (change("model/class_path", "my.Exp"), r"model class my.Exp is not supported"),
    "callback": (change("trainer/callbacks", [{"class_path": "my.C"}]), r"callback class my.C is not supported"),
    "logger": (change("trainer/logger", {"class_path": "Wandb"}), r"logger class Wandb is not supported"),
    "backbone": (change(f"{MODEL}/backbone/class_path", "my.B"), r"backbone class my.B is not supported"),
    "devices": (change("trainer/devices", [0, 1]), r"devices is \[0, 1\], expected 1"),
    "accelerator": (change("trainer/accelerator", "tpu"), r"accelerator is 'tpu', expected auto, cpu or gpu"),
    "precision": (change("trainer/precision", 16), r"precision is 16, expected one of 32"),
    "no steps": (change("trainer/max_steps", 0), r"max_steps is 0, expected 2 or more"),
    "type": (change(f"{TRAIN}/batch_size", "16"), r"batch_size is '16', expected int"),
    "no batch": (change(f"{TRAIN}/batch_size", 0), r"batch_size is 0, expected 1 or more"),
    "rate of the data": (
        change(f"{TRAIN}/sampling_rate", 16000),
        r"sampling_rate is 16000, expected the model's, 24000",
    ),
    "rate of the mels": (
        change(f"{MODEL}/feature_extractor/init_args/sample_rate", 16000),
        r"sample_rate is 16000, expected the model's, 24000",
    ),
    "learning rate": (
        change(f"{MODEL}/initial_learning_rate", -1e-4),
        r"initial_learning_rate is -0.0001, expected more",
    ),
    "coefficient": (change(f"{MODEL}/mel_loss_coeff", -1), r"mel_loss_coeff is -1, expected 0 or more"),
    "gain": (change(f"{TRAIN}/gain_db", [3, 6]), r"gain_db is \[3, 6\], expected two numbers from -60 to 0"),
    "crop": (change(f"{TRAIN}/num_samples", 7681), r"num_samples is 7681, expected a multiple of the hop of 256"),
    "short crop": (change(f"{TRAIN}/num_samples", 256), r"num_samples is 256, .* from 2048 on"),
    "hop of n_fft": (
        change(f"{MODEL}/head/init_args/n_fft", 1000),
        r"hop_length is 256, expected a divisor of n_fft = 1000",
    ),
    "hop of mels": (
        change(f"{MODEL}/feature_extractor/init_args/hop_length", 200),
        r"mel hop_length is 200 but the head's is 256",
    ),
    "mels": (change(f"{MODEL}/feature_extractor/init_args/n_mels", 80), r"80 bands but the network takes 16 channels"),
    "dim": (change(f"{MODEL}/head/init_args/dim", 32), r"dim is 32 but the backbone's is 16"),
    "weights of bandwidths": (
        change(f"{MODEL}/bandwidth_weights", [1]),
        r"bandwidth_weights is \[1\], expected 0 numbers",
    ),
    "phase of bandwidths": (
        change(f"{MODEL}/bandwidth_phase", [0.5, 1]),
        r"bandwidth_phase is \[0.5, 1\], expected 0 numbers",
    ),
    "loudness": (loudness_at_8_khz, r"loudness_coeff is 0.4, .* sample_rate is 8000, expected 16000 or more"),
    "equaliser": (change(f"{TRAIN}/eq_db", -1.0), r"eq_db is -1.0, expected 0 or more"),
    "share": (
        change(f"{TRAIN}/augment", {"low_pass": 1.5}),
        r"train_params: augment: low_pass is 1.5, expected a share of the crops from 0 to 1",
    ),
    "negative share": (change(f"{TRAIN}/augment", {"quiet": -0.1}), r"augment: quiet is -0.1, expected a share"),
    "unknown augmentation": (
        change(f"{TRAIN}/augment", {"pitch": 0.1}),
        r"train_params: augment: .*unexpected keyword argument 'pitch'",
    ),
    "augmentation": (change(f"{TRAIN}/augment", 0.3), r"train_params: augment is 0.3, expected a mapping"),
    "no list": (change(f"{TRAIN}/filelist_path", []), r"filelist_path is \[\], expected a path, or a list of paths"),
    "list of what": (change(f"{TRAIN}/filelist_path", [1]), r"filelist_path is \[1\], expected a path, or a list"),
    "mel sizes": (change(f"{MODEL}/mel_sizes", [100]), r"mel_sizes is \[100\], expected a list of n_fft among 64, 128"),
    "phase": (change(f"{MODEL}/phase_below", 13e3), r"phase_below is 13000, expected Hz, .* 12000"),
    "average": (change(f"{MODEL}/ema", 1.0), r"ema is 1, expected a decay from 0, for none, to less than 1"),
    "context": (change(f"{MODEL}/context_frames", -1), r"context_frames is -1, expected 0 to 11"),
    "no frame heard": (change(f"{MODEL}/context_frames", 14), r"context_frames is 14, expected 0 to 11"),
    "channels": (
        change(f"{MODEL}/stft_discriminator_channels", -1),
        r"stft_discriminator_channels is -1, expected 0, for upstream's discriminators, to 1024",
    ),
    "wide": (
        change(f"{MODEL}/period_width", 1.5),
        r"period_width is 1.5, expected 0, for none, to 1",
    ),
    "period of upstream's": (
        change(f"{MODEL}/period_width", 0.5),
        r"period_width is for stft_discriminator_channels of 1 or more; .* is discriminator_width",
    ),
    "consistency": (change(f"{MODEL}/consistency_coeff", -1.0), r"consistency_coeff is -1.0, expected 0 or more"),
    "states": (change("trainer/save_every_n_steps", 0), r"save_every_n_steps is 0, expected 1 or more"),
    "experiment": (
        change("model/class_path", "vocos.experiment.VocosEncodecExp"),
        r"does not go with the feature_extractor",
    ),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_bad_configs(name: Any, data: Path, tmp_path: Path) -> None:
    apply, message = BAD_CONFIGS[name]
    config = copy.deepcopy(tree("mel", data))
    apply(config)
    with pytest.raises(ValueError, match=message):
        trainer("mel", data, tmp_path / "run", config=config)


def test_bad_combinations(data: Path, tmp_path: Path) -> None:
    def fails(message: str, task: str, error: type[Exception] = ValueError, **given: Any) -> None:
        config = given.pop("config", None) or tree(task, data)
        with pytest.raises(error, match=message):
            Trainer(read_config(config), tmp_path / "run", **given)

    fails("encoder is given, and the features are mels", "mel", encoder=ENCODER)
    fails(r"expected \('vocos_onnx_24khz', 24000, 320, 64\)", "codec", encoder=ENCODER)
    fails("need its encoder: .* pass --encoder", "tokens")
    wide = tree("tokens", data)
    wide["model"]["init_args"]["backbone"]["init_args"]["input_channels"] = 128
    fails(
        r"'encodec_24khz', 24000, 320, 8\).* expected \('encodec_24khz', 24000, 320, 128\)",
        "tokens",
        config=wide,
        encoder=ENCODER,
    )
    narrow = tree("codec", data)
    narrow["model"]["init_args"]["backbone"]["init_args"]["input_channels"] = 32
    fails("has 64 channels and a hop of 320, but .* 32", "codec", config=narrow)
    learned = tree("tokens", data)
    learned["model"]["init_args"]["feature_extractor"]["init_args"]["train_codebooks"] = True
    fails("train_codebooks is true, which is not supported", "tokens", config=learned, encoder=ENCODER)
    unconditional = tree("tokens", data)
    del unconditional["model"]["init_args"]["backbone"]["init_args"]["adanorm_num_embeddings"]
    fails("adanorm_num_embeddings is None, expected 2", "tokens", config=unconditional, encoder=ENCODER)
    if not torch.cuda.is_available():
        fails("torch finds no CUDA device; pass --device cpu", "mel", device="cuda")
    fails("device is 'tpu'", "mel", device="tpu")
    fails("no checkpoint", "mel", FileNotFoundError, checkpoint="nowhere")
    trainer("mel", data, tmp_path / "other").save(tmp_path / "other" / LAST)
    wider = tree("mel", data)
    wider["model"]["init_args"]["backbone"]["init_args"]["intermediate_dim"] = 32
    with pytest.raises(ValueError, match=r"last\.pt is of another geometry than the config: .* Choose another --out"):
        trainer("mel", data, tmp_path / "other", config=wider)
    one = tree("mel", data)
    one["trainer"]["max_steps"] = 2
    trainer("mel", data, tmp_path / "one", config=one).train()
    fails(
        "of another geometry than the config: .* shape",
        "mel",
        config=wider,
        checkpoint=str(tmp_path / "one" / "checkpoint"),
    )
    (tmp_path / "one" / LAST).write_bytes(b"not a state")
    with pytest.raises(ValueError, match=r"cannot read .*last\.pt"):
        trainer("mel", data, tmp_path / "one", config=one)


def test_no_files(data: Path, tmp_path: Path) -> None:
    empty = tmp_path / "index.csv"
    empty.write_text("file,split\n")
    for source, error, message in (
        (tmp_path / "nowhere", FileNotFoundError, "no filelist or folder"),
        (empty, ValueError, "has no audio file of split 'train'"),
        (tmp_path, ValueError, "split 'train' is for a .csv"),
    ):
        config = tree("mel", data)
        config["data"]["init_args"]["train_params"]["filelist_path"] = str(source)
        with pytest.raises(error, match=message):
            trainer("mel", data, tmp_path / "run", config=config)
    empty.write_text("path\n")
    with pytest.raises(ValueError, match=r"has the columns \['path'\], expected file, split among them"):
        config["data"]["init_args"]["train_params"]["filelist_path"] = str(empty)
        trainer("mel", data, tmp_path / "run", config=config)
