"""The options that commands share, and the types of their values."""

from __future__ import annotations

import argparse
import io
import math
import re
from pathlib import Path

from vocos_onnx.messages import shown

INPUTS = "- is standard input, and a folder stands for all of its {} files (not those in subfolders)"
OUTPUTS = "for several inputs a folder, which is created if it does not exist; - is standard output"


# Options


def add_session(parser: argparse.ArgumentParser) -> None:
    add_provider(parser, "where onnxruntime computes: cpu, cuda, or the name of another execution provider")
    parser.add_argument(
        "--threads", type=integer, metavar="N", help="threads on the CPU (default: the CPUs that the process may use)"
    )


def add_provider(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--provider", type=provider, metavar="P", help=help)


def add_audio_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        type=audio_kind,
        metavar="F",
        help="of the audio: wav, flac, ogg, ... (default: by the name of the output, else wav)",
    )


def add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-y", "--force", action="store_true", help="replace an output that exists")


def add_recordings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        type=name,
        nargs="+",
        metavar="IN",
        help=f"audio files of any kind, rate and channels; {INPUTS.format('audio')}",
    )
    add_bandwidth(parser)
    add_encoder(parser)


def add_bandwidth(
    parser: argparse.ArgumentParser,
    help: str = "kilobits of tokens per second of audio, such as 1.5, 3, 6 or 12: more sound better (default: 6)",
) -> None:
    parser.add_argument("--bandwidth", type=kbps, metavar="KBPS", help=help)


def add_encoder(
    parser: argparse.ArgumentParser,
    help: str = "encoder: .onnx file, checkpoint, or owner/name on the hub (default: that of the bundled codec)",
) -> None:
    parser.add_argument("--encoder", metavar="E", help=help)


def add_model(parser: argparse.ArgumentParser, default: str = "the bundled codec") -> None:
    parser.add_argument(
        "--model",
        metavar="M",
        help=f".onnx file, checkpoint, owner/name on the hub, or a bundled model (default: {default})",
    )


def add_revision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")


def add_checkpoint(parser: argparse.ArgumentParser, help: str) -> None:
    """Adds the arguments of ``convert`` and ``export``: a checkpoint, its output, and how to convert it."""
    add_precision(parser)
    add_force(parser)
    parser.add_argument("checkpoint", type=name, metavar="CHECKPOINT", help=help)
    parser.add_argument("-o", "--output", type=name, required=True, metavar="MODEL.onnx", help="file to write")
    parser.add_argument("--config", type=name, help="config of a vocoder, if it is not beside the weights")
    add_revision(parser)
    parser.add_argument(
        "--istft",
        choices=("numpy", "graph"),
        default="numpy",
        help="graph: the inverse STFT in the graph too, for GPUs",
    )
    parser.add_argument(
        "--format",
        choices=("vocos-onnx", "sherpa"),
        default="vocos-onnx",
        help="sherpa: a file that sherpa-onnx plays, of a mel model",
    )


SETTINGS = ("sample_rate", "n_fft", "hop_length", "padding")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds the options that describe another exporter's file, under the names in SETTINGS."""
    group = parser.add_argument_group(
        "for another exporter's .onnx file, if neither the file nor a config beside it says it"
    )
    group.add_argument("--sample-rate", type=integer, metavar="HZ", help="of the audio that it makes")
    group.add_argument("--n-fft", type=integer, metavar="N", help="size of the inverse STFT, in samples")
    group.add_argument("--hop-length", type=integer, metavar="N", help="samples from one frame to the next")
    group.add_argument(
        "--padding",
        choices=("same", "center"),
        help="how the model was trained: T frames make T times N samples (same), or (T - 1) times N (center)",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    add_int8_or_fp16(parser)
    parser.add_argument(
        "--calibrate",
        type=path,
        nargs="+",
        metavar="F",
        help=".npy or .npz of tokens or features (default: bundled speech)",
    )


def add_int8_or_fp16(parser: argparse.ArgumentParser) -> None:
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--int8", action="store_true", help="matrix products in int8, for CPUs")
    precision.add_argument("--fp16", action="store_true", help="half precision, for GPUs")


def chosen_precision(args: argparse.Namespace) -> str | None:
    """Returns the precision of --int8 or --fp16, or None without either."""
    return "int8" if args.int8 else "float16" if args.fp16 else None


# Types: each converts an argument's text to its value, and raises ArgumentTypeError if it is not valid


def path(text: str) -> Path:
    if not text:  # Path("") would be the working directory
        raise argparse.ArgumentTypeError("an empty name, expected that of a file or folder")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{shown(text)} holds a null character, which no name can")
    return Path(text)


def name(text: str) -> str:
    """The name of a file or folder, unchanged: "-" is a standard stream, and "out/" a folder."""
    path(text)
    return text


def integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number of up to 18 digits")
    return int(text)


def share(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a number such as 1 or 0.5")
    return float(text)


def provider(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("an empty name, expected cpu, cuda, or another execution provider")
    if text.lower() == "gpu":
        raise argparse.ArgumentTypeError(f"{shown(text)} is not an execution provider; did you mean cuda?")
    return text.lower() if text.lower() in ("cpu", "cuda") else text


def kbps(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a bandwidth in kbps, such as 1.5 or 6")
    return value


def mels_from(text: str) -> str:
    """The name of a system whose mels can be decoded."""
    from vocos_onnx.mels import CONVENTIONS, known_system

    name = known_system(text)
    if name is None:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not one of {', '.join(CONVENTIONS)}")
    return name


def ending(text: str) -> str:
    """The ending of a file, such as "wav", even if given as ".WAV"."""
    return text.lower().lstrip(".")


def audio_kind(text: str) -> str:
    """The ending of a format of audio files that can be written, such as "wav"."""
    from vocos_onnx.io.audio import audio_format

    kind = ending(text)
    try:
        audio_format(io.BytesIO(), kind)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is not a kind of audio to write, such as wav, flac or ogg"
        ) from None
    return kind
