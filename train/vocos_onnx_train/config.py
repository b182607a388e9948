"""Reads training configs, in the YAML layout of upstream's ``configs/*.yaml``, strictly.

An unknown or unsupported key or value raises an error that names it. "Ours" marks keys that upstream does not have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from vocos_onnx.dsp.mel import MelFeatures
from vocos_onnx.messages import listed, shown
from vocos_onnx.model.checkpoint_config import PARTS, check_args, read_features, section
from vocos_onnx.model.yaml_config import load_yaml
from vocos_onnx_export.errors import CheckpointError

from .augment import Augment
from .losses import MEL_BANDS

T = TypeVar("T")

CONFIGS = Path(__file__).parent / "configs"
DATA = "vocos.dataset.VocosDataModule"
UNCONDITIONAL, CONDITIONAL = "vocos.experiment.VocosExp", "vocos.experiment.VocosEncodecExp"
LOGGERS = ("pytorch_lightning.loggers.TensorBoardLogger",)
# Their work is always done: learning rate and gradient norm are logged, the best and the last state are kept.
CALLBACKS = (
    "pytorch_lightning.callbacks.LearningRateMonitor",
    "pytorch_lightning.callbacks.ModelSummary",
    "pytorch_lightning.callbacks.ModelCheckpoint",
    "vocos.helpers.GradNormCallback",
)
Numbers = list | None  # type: ignore[type-arg]  # the plain class, which check_args compares types with
PRECISIONS = {
    "32": "float32",
    "32-true": "float32",
    "bf16": "bfloat16",
    "bf16-mixed": "bfloat16",
}


@dataclass(frozen=True)
class Files:
    """Audio for training or validation.

    filelist_path: a text file of paths, one per line; a .csv with a column ``file`` (and optionally ``speaker`` and
        ``split``), whose paths are relative to it; or a folder, which means all audio files in and under it. Ours: a
        list of these, all of which are used.
    num_samples: length of the crops. In validation, the most that is used of a file, from its start.
    gain_db: ours; the peak of the whole file is set to a random level between the two, in dBFS.
    speed: ours; the range of speeds at which crops are played, which also shifts the pitch.
    eq_db: ours; crops pass through an equaliser with random gains of up to this many dB.
    split: ours; uses only the rows of the .csv with this value in the column ``split``.
    balance_speakers: ours; a speaker is drawn in proportion to the square root of their total duration, not to the
        duration itself.
    every: ours; uses only every n-th file, to validate faster.
    augment: ours; further augmentation of the crops, see ``augment.Augment``.
    """

    filelist_path: str | list  # type: ignore[type-arg]  # like Numbers
    sampling_rate: int
    num_samples: int
    batch_size: int
    num_workers: int = 0
    gain_db: Numbers = None
    speed: Numbers = None
    eq_db: float = 0.0
    split: str | None = None
    balance_speakers: bool = False
    every: int = 1
    augment: Any = None

    @property
    def paths(self) -> list[str]:
        """The paths in filelist_path, as a list."""
        return [self.filelist_path] if isinstance(self.filelist_path, str) else self.filelist_path


@dataclass(frozen=True)
class Experiment:
    """How the model is trained: the arguments of upstream's VocosExp and, from ``multi_scale_mel_coeff`` on, ours.

    multi_scale_mel_coeff, stft_coeff, compressed_stft_coeff, compressed_magnitude_coeff, loudness_coeff,
        log_amplitude_coeff, consistency_coeff: weights of the losses in ``losses.py``.
    mel_sizes: n_fft of the scales of multi_scale_mel, from ``losses.MEL_BANDS``; by default 256 to 2048.
    phase_below: the frequency in Hz up to which stft and compressed_stft count; by default no limit.
    context_frames: this many frames at both ends of a crop are decoded but hidden from losses and discriminators, since
        their neighbours are missing.
    same_level: losses and discriminators see copy and recording as if the peak of the recording's file were at -3 dBFS,
        so a quiet crop counts as much as a loud one.
    discriminator_width: multiplies the channels of upstream's discriminators, to make them small enough for a CPU.
    stft_discriminator_channels: channels of small spectrogram discriminators, which replace upstream's; see
        ``discriminators.STFTDiscriminator``. 0 keeps upstream's.
    period_width: upstream's multi-period discriminators judge beside the small ones, with this multiple of their
        channels; 0 for none.
    adversarial_coeff, matching_coeff: weights, for the generator, of the discriminators' scores and of the distances
        between their feature maps. For the small discriminators the distance is relative to the magnitude of the map.
    evaluate_sound: whether validation also measures DNSMOS P.808 (needs the extra [report]), harmonicity and the line
        at the frame rate, and uses them to choose the best state; see ``trainer.mix``.
    ema: decay of the moving average of the weights, which is then validated and exported; 0 disables it.
    betas, weight_decay: parameters of AdamW.
    bandwidth_weights: relative frequency with which each bandwidth is drawn.
    bandwidth_phase: weight, for each bandwidth, of the losses that constrain the phase, stft and compressed_stft.
    """

    sample_rate: int
    initial_learning_rate: float
    num_warmup_steps: int = 0
    mel_loss_coeff: float = 45.0
    mrd_loss_coeff: float = 1.0
    pretrain_mel_steps: int = 0
    decay_mel_coeff: bool = False
    evaluate_utmos: bool = False
    evaluate_pesq: bool = False
    evaluate_periodicty: bool = False
    multi_scale_mel_coeff: float = 0.0
    stft_coeff: float = 0.0
    compressed_stft_coeff: float = 0.0
    compressed_magnitude_coeff: float = 0.0
    loudness_coeff: float = 0.0
    log_amplitude_coeff: float = 0.0
    consistency_coeff: float = 0.0
    mel_sizes: Numbers = None
    phase_below: float | None = None
    context_frames: int = 0
    same_level: bool = False
    discriminator_width: float = 1.0
    stft_discriminator_channels: int = 0
    period_width: float = 0.0
    adversarial_coeff: float = 1.0
    matching_coeff: float = 1.0
    evaluate_sound: bool = False
    ema: float = 0.0
    betas: Numbers = None
    weight_decay: float = 0.01
    bandwidth_weights: Numbers = None
    bandwidth_phase: Numbers = None


@dataclass(frozen=True)
class Run:
    """The section ``trainer``: those of Lightning's arguments that upstream's configs use, and three more.

    max_steps: counted as in Lightning, one for each of the two optimizers: half of them are generator steps.
    limit_val_batches, log_every_n_steps: as in Lightning.
    val_check_interval: steps between validations, each of which saves the state.
    save_every_n_steps: ours; also saves the state between validations.
    """

    max_steps: int
    logger: Any = None
    callbacks: Any = None
    limit_val_batches: int | None = None
    accelerator: str = "auto"
    strategy: str = "auto"
    devices: Any = 1
    log_every_n_steps: int = 50
    val_check_interval: int = 5000
    save_every_n_steps: int | None = None
    precision: int | str | None = None
    gradient_clip_val: float | None = None


@dataclass(frozen=True)
class TrainConfig:
    """A complete config. ``model`` holds its sections feature_extractor, backbone and head unchanged.

    melspec_loss: sample rate and mels of the mel loss, as wetdog/wavenext_pytorch sets them. None means upstream's.
    """

    seed: int
    train: Files
    valid: Files
    experiment: Experiment
    conditional: bool
    run: Run
    model: dict[str, Any]
    melspec_loss: tuple[int, MelFeatures] | None = None

    @property
    def steps(self) -> int:
        """The number of generator steps."""
        return self.run.max_steps // 2

    @property
    def precision(self) -> str | None:
        """The type float32 or bfloat16, or None to let the device choose."""
        return None if self.run.precision is None else PRECISIONS[str(self.run.precision)]


def find_config(path: Path) -> Path:
    """Returns the path of a config; ``path`` may be the name of a bundled one, with or without .yaml.

    Raises a FileNotFoundError that lists the bundled ones.
    """
    if path.is_file():
        return path
    bundled = {config.stem: config for config in sorted(CONFIGS.glob("*.yaml"))}
    name = str(path).removesuffix(".yaml")
    if name not in bundled:
        raise FileNotFoundError(
            f"no config {path}; pass the path of a file, or the name of one of {', '.join(bundled)}"
        )
    return bundled[name]


def load_config(path: Path, **changes: Any) -> TrainConfig:
    """Read a config; ``train`` and ``valid`` are new filelist paths (or lists of them), ``steps`` half of max_steps.

    ``path`` may be the name of a bundled config, such as "vocos-mel-24khz". If ``train`` or ``valid`` is not a .csv,
    the config's ``split`` is ignored.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a YAML mapping, or if a key, class or value is unknown, missing, of another type or out
            of range.
    """
    path = find_config(path)
    tree = load_yaml(path)
    try:
        return read_config(tree, **changes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_config(
    tree: Any,
    *,
    train: str | Sequence[str] | None = None,
    valid: str | Sequence[str] | None = None,
    steps: int | None = None,
) -> TrainConfig:
    """Builds a config from its parsed YAML; see ``load_config``."""
    _keys("the config", tree, ("seed_everything", "data", "model", "trainer"), optional=("seed_everything",))
    _, data = _class(tree, "data", (DATA,))
    _keys("data.init_args", data, ("train_params", "val_params"))
    model_class, model = _class(tree, "model", (UNCONDITIONAL, CONDITIONAL))
    _keys("model.init_args", model, PARTS, others=True)
    run = tree["trainer"]
    if isinstance(run, dict) and steps is not None:
        run = {**run, "max_steps": 2 * steps}
    config = TrainConfig(
        seed=_integer("seed_everything", tree.get("seed_everything", 0)),
        train=_files("train_params", data["train_params"], train),
        valid=_files("val_params", data["val_params"], valid),
        experiment=_read(
            "model.init_args", Experiment, {k: v for k, v in model.items() if k not in (*PARTS, "melspec_loss")}
        ),
        conditional=model_class == CONDITIONAL,
        run=_read("trainer", Run, run),
        model={name: model[name] for name in PARTS},
        melspec_loss=_melspec_loss(model) if "melspec_loss" in model else None,
    )
    _check(config)
    return config


def _check(config: TrainConfig) -> None:
    experiment, run = config.experiment, config.run
    for name, files in (("train_params", config.train), ("val_params", config.valid)):
        where = f"data.init_args.{name}"
        _at_least(where, files, 1, "num_samples", "batch_size", "every")
        _at_least(where, files, 0, "num_workers", "eq_db")
        for key, most in (("num_samples", 1 << 28), ("batch_size", 1 << 16), ("num_workers", 1 << 10)):
            if getattr(files, key) > most:
                raise ValueError(f"{where}: {key} is {getattr(files, key)}, expected at most {most}")
        if files.sampling_rate != experiment.sample_rate:
            raise ValueError(
                f"{where}: sampling_rate is {files.sampling_rate}, expected the model's, {experiment.sample_rate}"
            )
        _range(f"{where}: gain_db", files.gain_db, -60, 0)
        _range(f"{where}: speed", files.speed, 0.5, 2)
        for share, value in vars(files.augment or Augment()).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{where}: augment: {share} is {value:g}, expected a share of the crops from 0 to 1")
    where = "model.init_args"
    _at_least(where, experiment, 0, "num_warmup_steps", "pretrain_mel_steps", "weight_decay")
    coefficients = [name for name in vars(experiment) if name.endswith("_coeff") and name != "decay_mel_coeff"]
    _at_least(where, experiment, 0, *coefficients)
    if experiment.loudness_coeff and experiment.sample_rate < 16_000:
        raise ValueError(
            f"{where}: loudness_coeff is {experiment.loudness_coeff:g}, but what it measures goes up to 8 kHz, and "
            f"sample_rate is {experiment.sample_rate}, expected 16000 or more; set loudness_coeff to 0"
        )
    _range(f"{where}: betas", experiment.betas, 0, 1 - 1e-9)
    _check_losses(where, config)
    for name in ("initial_learning_rate", "discriminator_width"):
        if not 0 < getattr(experiment, name) <= 100:
            raise ValueError(f"{where}: {name} is {getattr(experiment, name)}, expected more than 0, and at most 100")
    _at_least("trainer", run, 2, "max_steps")
    _at_least("trainer", run, 1, "log_every_n_steps", "val_check_interval")
    if run.save_every_n_steps is not None:
        _at_least("trainer", run, 1, "save_every_n_steps")
    if run.precision is not None and str(run.precision) not in PRECISIONS:
        raise ValueError(f"trainer: precision is {shown(run.precision)}, expected one of {', '.join(PRECISIONS)}")
    if run.accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise ValueError(f"trainer: accelerator is {shown(run.accelerator)}, expected auto, cpu or gpu")
    if run.devices not in (1, "auto", [0], "1", -1):
        raise ValueError(f"trainer: devices is {shown(run.devices)}, expected 1 or [0]: training runs on one device")
    if run.logger not in (None, True, False):
        _class({"logger": run.logger}, "logger", LOGGERS)
    if not isinstance(run.callbacks or [], list):
        raise ValueError(f"trainer: callbacks is {shown(run.callbacks)}, expected a list")
    for callback in run.callbacks or ():
        _class({"callback": callback}, "callback", CALLBACKS)
    features = config.model["feature_extractor"]
    is_encodec = isinstance(features, dict) and str(features.get("class_path")).endswith(".EncodecFeatures")
    if is_encodec != config.conditional:
        raise ValueError(
            f"model: {CONDITIONAL if config.conditional else UNCONDITIONAL} does not go with the feature_extractor; "
            f"expected {CONDITIONAL} with EncodecFeatures, and {UNCONDITIONAL} with mels"
        )


def _check_losses(where: str, config: TrainConfig) -> None:
    """Raises ValueError if one of our own arguments is out of range."""
    experiment, rate = config.experiment, config.experiment.sample_rate
    sizes = experiment.mel_sizes
    if sizes is not None and (not sizes or any(size not in MEL_BANDS for size in sizes)):
        known = ", ".join(map(str, MEL_BANDS))
        raise ValueError(f"{where}: mel_sizes is {shown(sizes)}, expected a list of n_fft among {known}")
    below = experiment.phase_below
    if below is not None and not 0 < below <= rate / 2:
        raise ValueError(
            f"{where}: phase_below is {below:g}, expected Hz, more than 0 and at most half the rate, {rate / 2:g}"
        )
    if not 0 <= experiment.ema < 1:
        raise ValueError(f"{where}: ema is {experiment.ema:g}, expected a decay from 0, for none, to less than 1")
    if not 0 <= experiment.stft_discriminator_channels <= 1 << 10:
        raise ValueError(
            f"{where}: stft_discriminator_channels is {experiment.stft_discriminator_channels}, expected 0, for "
            f"upstream's discriminators, to {1 << 10}"
        )
    if not 0 <= experiment.period_width <= 1:
        raise ValueError(f"{where}: period_width is {experiment.period_width:g}, expected 0, for none, to 1")
    if experiment.period_width and not experiment.stft_discriminator_channels:
        raise ValueError(
            f"{where}: period_width is for stft_discriminator_channels of 1 or more; the width of upstream's "
            "discriminators is discriminator_width"
        )


def _melspec_loss(model: dict[str, Any]) -> tuple[int, MelFeatures]:
    """The sample rate and mels of a MelSpecReconstructionLoss, which takes the arguments of mel features."""
    _, args = _class(model, "melspec_loss", ("vocos.loss.MelSpecReconstructionLoss",))
    class_path = "vocos.feature_extractors.MelSpectrogramFeatures"
    args = {"clip_val": 1e-7, **args, "padding": "center"}
    try:
        mel, sample_rate = read_features({"feature_extractor": {"class_path": class_path, "init_args": args}})
    except CheckpointError as error:
        raise ValueError(str(error).replace("feature_extractor", "melspec_loss", 1)) from None
    assert isinstance(mel, MelFeatures)
    return sample_rate, mel


def _files(name: str, args: Any, path: str | Sequence[str] | None) -> Files:
    where = f"data.init_args.{name}"
    if isinstance(args, dict) and path is not None:
        paths = [path] if isinstance(path, str) else list(path)
        args = {**args, "filelist_path": paths[0] if len(paths) == 1 else paths}
        if not any(Path(p).suffix.lower() == ".csv" for p in paths):  # the config's split belongs to its own index
            args.pop("split", None)
    if isinstance(args, dict) and args.get("filelist_path") == "???":
        flag = "--train" if name == "train_params" else "--valid"
        raise ValueError(f"{where}: filelist_path is not filled in; fill it in, in a file of your own, or pass {flag}")
    files = _read(where, Files, args)
    if not files.paths or not all(isinstance(p, str) for p in files.paths):
        raise ValueError(f"{where}: filelist_path is {shown(files.filelist_path)}, expected a path, or a list of paths")
    if files.augment is None:
        return files
    return replace(files, augment=_read(f"{where}: augment", Augment, files.augment))


def _read(where: str, kind: type[T], args: Any) -> T:
    if not isinstance(args, dict):
        raise ValueError(f"{where} is {shown(args)}, expected a mapping")
    try:
        check_args(where, kind.__name__, args, kind)
    except CheckpointError as error:
        raise ValueError(str(error)) from None
    return kind(**args)


def _class(tree: dict[str, Any], name: str, known: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    class_path, args = section(tree, name)
    if class_path not in known:
        raise ValueError(f"{name} class {listed([class_path])} is not supported; supported are {', '.join(known)}")
    return class_path, args


def _keys(where: str, tree: Any, known: tuple[str, ...], optional: tuple[str, ...] = (), others: bool = False) -> None:
    if not isinstance(tree, dict):
        raise ValueError(f"{where} is {shown(tree)}, expected a mapping of {', '.join(known)}")
    missing = [key for key in known if key not in tree and key not in optional]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    unknown = [str(key) for key in tree if key not in known]
    if unknown and not others:
        raise ValueError(f"{where} has the unknown key {listed(unknown)}; known are {', '.join(known)}")


def _integer(where: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise ValueError(f"{where} is {shown(value)}, expected an integer of 0 to {(1 << 32) - 1}")
    return value


def _at_least(where: str, section: Any, low: float, *names: str) -> None:
    for name in names:
        if not low <= getattr(section, name) < math.inf:
            raise ValueError(f"{where}: {name} is {shown(getattr(section, name))}, expected {low} or more")


def _range(where: str, value: list[float] | None, low: float, high: float) -> None:
    numbers = value is None or (len(value) == 2 and all(type(v) in (int, float) for v in value))
    if not numbers or (value is not None and not low <= min(value) <= max(value) <= high):
        raise ValueError(f"{where} is {shown(value)}, expected two numbers from {low} to {high:g}")
