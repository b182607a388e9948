"""The command line. Bad input ends with exit code 2 and one line, never with a traceback."""

from __future__ import annotations

import argparse
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import __version__
from .audio import audio_format, save_audio
from .vocoder import VocosONNX, default_model

DEMO_TOKENS = "speech_en_m_joe_48k_stereo.npz"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"vocos-onnx: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vocos-onnx", description="Vocos without torch: tokens to 24 kHz audio.")
    parser.add_argument("--version", action="version", version=f"vocos-onnx {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    session = argparse.ArgumentParser(add_help=False)
    session.add_argument(
        "--provider", metavar="P", help="execution provider of onnxruntime, e.g. CUDAExecutionProvider"
    )
    session.add_argument("--threads", type=int, metavar="N", help="threads on the CPU (default: all cores)")

    decode = commands.add_parser("decode", parents=[session], help="decode tokens or features to an audio file")
    decode.add_argument("tokens", type=Path, metavar="TOKENS", help=".npy, or .npz with an array named tokens or codes")
    decode.add_argument("output", type=Path, metavar="OUT", help="audio file to write, e.g. out.wav")
    decode.add_argument("--model", metavar="M", help=".onnx model (default: the codec in the box)")
    decode.add_argument("--bandwidth-id", type=int, metavar="N", help="default: from the number of codebooks")
    decode.add_argument("--layout", default="kbt", help="axes of 3-D tokens: kbt (codebooks, batch, frames) or bkt")
    decode.set_defaults(run=_decode)

    info = commands.add_parser("info", help="say what a model file is")
    info.add_argument("model", nargs="?", metavar="MODEL", help="default: the codec in the box")
    info.set_defaults(run=_info)

    demo = commands.add_parser("demo", parents=[session], help="decode the tokens in the box, real recorded speech")
    demo.add_argument("output", type=Path, nargs="?", default=Path("demo.wav"), metavar="OUT")
    demo.set_defaults(run=_demo)

    export = commands.add_parser("export", help="convert a Vocos checkpoint to .onnx (needs the extra [export])")
    export.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, .ckpt file, or hub id (owner/name)")
    export.add_argument("-o", "--output", required=True, metavar="MODEL.onnx")
    export.add_argument("--config", help="config.yaml, where it is not beside the weights")
    export.add_argument("--revision", help="branch, tag or commit of a hub id")
    export.set_defaults(run=_export)
    return parser


def _decode(args: argparse.Namespace) -> None:
    audio_format(args.output)  # an output that cannot be written should fail before the work, not after
    tokens = load_tokens(args.tokens)
    vocos = _open(args, args.model)
    audio = vocos.decode(tokens, args.bandwidth_id, layout=args.layout)
    if audio.ndim == 2:
        if len(audio) > 1:
            raise ValueError(
                f"{args.tokens} holds a batch of {len(audio)}, and {args.output} can hold one clip: "
                "save each item's tokens (codebooks, frames) to a file of its own"
            )
        audio = audio[0]
    save_audio(args.output, audio, vocos.sample_rate)
    print(f"wrote {args.output}: {len(audio) / vocos.sample_rate:.2f} s at {vocos.sample_rate} Hz")


def _info(args: argparse.Namespace) -> None:
    path = Path(args.model) if args.model else default_model()
    vocos = VocosONNX(path, providers=["CPUExecutionProvider"])
    print(f"model: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    for name, value in asdict(vocos.config).items():
        if isinstance(value, dict):
            print(f"{name}:")
            for inner, inner_value in value.items():
                print(f"  {inner}: {_text(inner_value)}")
        elif value is not None:
            print(f"{name}: {_text(value)}")


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _demo(args: argparse.Namespace) -> None:
    audio_format(args.output)
    with np.load(default_model().with_name(DEMO_TOKENS)) as archive:
        tokens, source = archive["tokens"], str(archive["source"])
    began = time.perf_counter()
    vocos = _open(args, None)
    loaded = time.perf_counter()
    audio = vocos.decode(tokens)
    took = time.perf_counter() - loaded
    save_audio(args.output, audio, vocos.sample_rate)
    seconds = len(audio) / vocos.sample_rate
    print(
        f"wrote {args.output}: {seconds:.2f} s of speech at {vocos.sample_rate} Hz, decoded from {len(tokens)} x "
        f"{tokens.shape[1]} tokens of a real recording ({source})\n"
        f"loaded the model in {loaded - began:.2f} s and decoded in {took:.3f} s, {seconds / took:.0f} times faster "
        f"than real time, on {vocos.providers[0]}"
    )


def _export(args: argparse.Namespace) -> None:
    try:
        from vocos_onnx_export import export
    except ModuleNotFoundError as error:
        raise ImportError(f"export needs {error.name}: pip install 'vocos-onnx[export]'") from error
    export(args.checkpoint, args.output, config=args.config, revision=args.revision)


def _open(args: argparse.Namespace, model: str | None) -> VocosONNX:
    return VocosONNX(model, providers=[args.provider] if args.provider else None, threads=args.threads)


def load_tokens(path: Path) -> npt.NDArray[Any]:
    """The array of a .npy file, or of a .npz file the one named tokens or codes, or its only one.

    Raises FileNotFoundError, or ValueError where the file is of another kind, damaged, or holds Python objects.
    """
    if not path.exists():
        raise FileNotFoundError(f"no token file {path}")
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            names = [n for n in ("tokens", "codes") if n in loaded.files] or loaded.files
            if len(names) != 1:
                raise ValueError(
                    f"it holds arrays named {', '.join(loaded.files) or 'nothing'}; name one of them tokens"
                )
            array: npt.NDArray[Any] = loaded[names[0]]
            return array
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read {path} as .npy or .npz: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
