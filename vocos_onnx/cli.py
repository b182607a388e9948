"""The command line. Bad input ends with exit code 2 and one line for each bad file, never with a traceback."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from . import __version__
from .audio import Float, audio_format, expected_samples, load_audio, load_blocks, save_blocks
from .backbone import placement
from .codebooks import LAYOUTS
from .config import ENCODER_KEY, METADATA_KEY
from .encodec import DEFAULT_BANDWIDTH, EncodecONNX
from .files import check_target, is_stdout
from .session import CODEC, find_model, open_session
from .tokens import Tokens, read_token_file, save_tokens
from .vocoder import VocosONNX, default_model

DEMO_TOKENS = "speech_en_m_joe_48k_stereo.npz"
PCM = {"s16le": "<i2", "f32le": "<f4"}
ENCODEC = "encodec_24khz"
MADE_BY = "vocos-onnx"  # a comment in the audio files that are made here: they may be replaced, recordings may not
BAD_INPUT = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except BrokenPipeError:  # who read stdout has gone away: nobody is there to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not flushed into it again
        return 1
    except BAD_INPUT as error:
        _complain(error)
        return 2
    except MemoryError as error:
        _complain(MemoryError(f"not enough memory: {error}; nothing was written"))
        return 2
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as a shell says it
    return 0


def _complain(error: Exception) -> None:
    _tell(f"error: {' '.join(str(error).split())}")


def _tell(text: str) -> None:
    """One line on stderr, if there is one: a terminal may be gone, and print(file=None) would be standard output."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"vocos-onnx: {text}", file=sys.stderr, flush=True)


def _path(text: str) -> Path:
    if not text:  # which Path takes for the working directory
        raise argparse.ArgumentTypeError("an empty name, expected that of a file or folder")
    return Path(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vocos-onnx", description="Vocos without torch: tokens to 24 kHz audio, and audio to tokens."
    )
    parser.add_argument("--version", action="version", version=f"vocos-onnx {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    session = argparse.ArgumentParser(add_help=False)
    session.add_argument("--provider", metavar="P", help="cpu, cuda, or another execution provider of onnxruntime")
    session.add_argument(
        "--threads", type=int, metavar="N", help="threads on the CPU (default: the CPUs that it may use)"
    )

    writes = argparse.ArgumentParser(add_help=False)
    writes.add_argument("-y", "--force", action="store_true", help="replace an output that exists")

    decode = commands.add_parser("decode", parents=[session, writes], help="decode tokens or features to an audio file")
    decode.add_argument("tokens", type=Path, metavar="TOKENS", help=".npy, or .npz with an array named tokens or codes")
    decode.add_argument("output", type=_path, metavar="OUT", help="audio file to write, e.g. out.wav")
    decode.add_argument("--model", metavar="M", help=".onnx model, or the name of one in the box (default: its codec)")
    decode.add_argument("--bandwidth-id", type=int, metavar="N", help="default: from the number of codebooks")
    decode.add_argument("--layout", default="kbt", help="axes of 3-D tokens: kbt (codebooks, batch, frames) or bkt")
    decode.set_defaults(run=_decode)

    files = argparse.ArgumentParser(add_help=False)
    files.add_argument("inputs", type=Path, nargs="+", metavar="IN", help="audio files of any kind, rate and channels")
    files.add_argument("--bandwidth", type=float, metavar="KBPS", help=f"default: {DEFAULT_BANDWIDTH:g}")
    files.add_argument("--encoder", metavar="E", help="encoder .onnx (default: that of the codec in the box)")

    encode = commands.add_parser("encode", parents=[session, files, writes], help="encode audio files to tokens")
    encode.add_argument("output", type=_path, metavar="OUT", help=".npz file to write, or a folder that exists")
    encode.set_defaults(run=_encode)

    resynth = commands.add_parser(
        "resynth", parents=[session, files, writes], help="copy-synthesis: audio files through tokens or mels, and back"
    )
    resynth.add_argument("output", type=_path, metavar="OUT", help="audio file to write, or a folder that exists")
    resynth.add_argument("--model", metavar="M", help=".onnx model, or the name of one in the box (default: its codec)")
    resynth.add_argument("--plot", type=Path, metavar="P.png", help="draw the two spectrograms, of one file")
    resynth.set_defaults(run=_resynth)

    stream = commands.add_parser(
        "stream", parents=[session], help="raw tokens, features or audio on stdin to raw audio on stdout, as it comes"
    )
    stream.add_argument(
        "kind",
        choices=("tokens", "features", "audio"),
        help="frame after frame: tokens as 16-bit integers, features as 32-bit floats, little-endian; or mono audio",
    )
    stream.add_argument("--model", metavar="M", help=".onnx model, or the name of one in the box (default: its codec)")
    stream.add_argument("--encoder", metavar="E", help="encoder .onnx (default: that of the codec in the box)")
    stream.add_argument("--bandwidth", type=float, metavar="KBPS", help=f"default: {DEFAULT_BANDWIDTH:g}")
    stream.add_argument("--rate", type=int, metavar="HZ", help="of the audio on stdin (default: the model's)")
    stream.add_argument("--format", choices=list(PCM), default="s16le", help="of the audio, in and out")
    stream.add_argument("--lookahead", type=int, metavar="N", help="frames to wait for; fewer are sooner, not exact")
    stream.add_argument(
        "--chunk", type=int, metavar="N", default=8, help="frames of audio encoded at once (default: 8)"
    )
    stream.set_defaults(run=_stream)

    info = commands.add_parser("info", help="say what a model file is")
    info.add_argument("model", nargs="?", metavar="MODEL", help="default: the codec in the box")
    info.add_argument("--provider", metavar="P", help="run it there, and say which operators are left on the CPU")
    info.set_defaults(run=_info)

    demo = commands.add_parser(
        "demo", parents=[session, writes], help="decode the tokens in the box, real recorded speech"
    )
    demo.add_argument("output", type=_path, nargs="?", default=Path("demo.wav"), metavar="OUT")
    demo.set_defaults(run=_demo)

    report = commands.add_parser(
        "report",
        parents=[session, writes],
        help="one HTML page to compare models by ear and figures (needs [report])",
    )
    report.add_argument("output", type=_path, metavar="OUT.html", help="page to write; it needs no other file")
    report.add_argument("--inputs", type=Path, nargs="+", required=True, metavar="IN", help="audio files of any kind")
    report.add_argument(
        "--model",
        nargs="+",
        action="extend",
        metavar="M",
        help=".onnx models, or names of those in the box (default: all of it)",
    )
    report.add_argument("--encoder", metavar="E", help="encoder .onnx of the models with its codebooks")
    report.add_argument("--bandwidths", type=float, nargs="+", metavar="KBPS", help="default: all of each model")
    report.set_defaults(run=_report)

    variant = argparse.ArgumentParser(add_help=False)
    precision = variant.add_mutually_exclusive_group()
    precision.add_argument("--int8", action="store_true", help="matrix products in int8, for CPUs")
    precision.add_argument("--fp16", action="store_true", help="half precision, for GPUs")
    variant.add_argument(
        "--calibrate", type=Path, nargs="+", metavar="F", help=".npy or .npz of tokens or features (default: speech)"
    )
    export = commands.add_parser(
        "export", parents=[variant, writes], help="convert a Vocos checkpoint to .onnx (needs the extra [export])"
    )
    export.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, .ckpt file, or hub id (owner/name)")
    export.add_argument("-o", "--output", required=True, metavar="MODEL.onnx")
    export.add_argument("--config", help="config.yaml, where it is not beside the weights")
    export.add_argument("--revision", help="branch, tag or commit of a hub id")
    export.add_argument(
        "--istft",
        choices=("numpy", "graph"),
        default="numpy",
        help="graph: the inverse STFT on the device too, for GPUs",
    )
    export.set_defaults(run=_export)

    quantize = commands.add_parser(
        "quantize",
        parents=[variant, writes],
        help="a float32 .onnx to int8 or half precision (needs [export])",
    )
    quantize.add_argument("model", metavar="MODEL", help=".onnx model, or the name of one in the box")
    quantize.add_argument("-o", "--output", required=True, metavar="OUT.onnx")
    quantize.set_defaults(run=_quantize)

    encoder = commands.add_parser(
        "export-encodec",
        parents=[writes],
        help="convert an EnCodec checkpoint's encoder to .onnx (needs [export])",
    )
    encoder.add_argument("checkpoint", metavar="CHECKPOINT", help="Meta's .th file, folder, or facebook/encodec_24khz")
    encoder.add_argument("-o", "--output", required=True, metavar="ENCODER.onnx")
    encoder.add_argument("--revision", help="branch, tag or commit of a hub id")
    encoder.set_defaults(run=_export_encodec)

    train = commands.add_parser(
        "train", parents=[writes], help="train a Vocos as a config of upstream's layout says (needs the extra [train])"
    )
    train.add_argument("config", type=Path, metavar="CONFIG.yaml")
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run; one that was stopped goes on")
    train.add_argument("--train", metavar="PATH", help="folder, filelist or index.csv, instead of the config's")
    train.add_argument("--valid", metavar="PATH", help="the same, of files to validate with")
    train.add_argument("--steps", type=int, metavar="N", help="steps of the generator, half the config's max_steps")
    train.add_argument("--encoder", metavar="E.onnx", help="of the tokens, for a model of EnCodec's")
    train.add_argument("--token-cache", type=Path, metavar="DIR", help="encode whole files, once, and crop the tokens")
    train.add_argument("--init-from", metavar="CHECKPOINT", help="begin with its weights: folder, .ckpt or hub id")
    train.add_argument("--revision", help="branch, tag or commit of a hub id")
    train.add_argument("--device", help="auto, cpu or cuda, instead of the config's accelerator")
    train.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=None, help="torch.compile (default: on CUDA)"
    )
    train.add_argument("--export", metavar="MODEL.onnx", help="export the best weights at the end")
    train.set_defaults(run=_train)
    return parser


def _decode(args: argparse.Namespace) -> None:
    audio_format(args.output)  # an output that cannot be written should fail before the work, not after
    _check_output(args.output, [args.tokens, args.model], args.force)
    read = read_token_file(args.tokens)
    tokens, samples = read.codes, read.samples
    vocos = _open(args, args.model)
    if tokens.ndim == 3:
        batch = 1 if args.layout == "kbt" and not np.issubdtype(tokens.dtype, np.floating) else 0
        if tokens.shape[batch] > 1:
            raise ValueError(
                f"{args.tokens} holds a batch of {tokens.shape[batch]}, and {args.output} can hold one clip: "
                "save each item's tokens (codebooks, frames) to a file of its own"
            )
        if tokens.shape[batch]:
            tokens = tokens.squeeze(batch)
    given = replace(read, codes=tokens)  # with its codec, which is checked then
    if vocos.delay and tokens.ndim == 2 and args.layout in LAYOUTS:
        blocks = vocos.decode_stream([given], args.bandwidth_id)
    else:
        blocks = iter([vocos.decode(given, args.bandwidth_id, layout=args.layout)])
    hop = vocos.hop_length

    def end(decoded: int) -> int:
        if samples is None:
            return decoded
        if not decoded - hop < samples <= decoded:
            raise ValueError(
                f"{args.tokens} says that it is of {samples} samples, but {tokens.shape[-1]} frames are "
                f"{decoded - hop + 1} to {decoded} of them: it is not whole"
            )
        return samples

    written = save_blocks(args.output, _cut(blocks, hop, end), vocos.sample_rate, overwrite=args.force, comment=MADE_BY)
    _warn_of_no_codec(read, vocos)
    _say(args.output, f"wrote {args.output}: {written / vocos.sample_rate:.2f} s at {vocos.sample_rate} Hz")


def _say(output: Path, line: str) -> None:
    """Print what was done, but not into the output itself, and only where somebody can read it."""
    stream = sys.stderr if is_stdout(output) else sys.stdout
    if stream is None:
        return
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:
        raise
    except OSError:  # closed, or of a terminal that is gone: the work is done all the same
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what is left is not flushed into it again


def _cut(blocks: Iterable[Float], most: int, end: Callable[[int], int]) -> Iterator[Float]:
    """The blocks (n,) without up to ``most`` samples at their end: ``end`` says of how many samples how many stay."""
    held, done = np.zeros(0, np.float32), 0
    for block in blocks:
        held = np.concatenate([held, block])
        out = max(0, len(held) - most)
        yield held[:out]
        held, done = held[out:], done + out
    yield held[: end(done + len(held)) - done]


def _encode(args: argparse.Namespace) -> None:
    targets = _targets(args.inputs, args.output, ".npz", [args.encoder], args.force)
    if any(target.suffix != ".npz" for _, target in targets):
        raise ValueError(f"{args.output.name!r} does not end in .npz, the kind of file that tokens are written to")
    encoder = EncodecONNX(args.encoder, **_options(args))
    bandwidth = DEFAULT_BANDWIDTH if args.bandwidth is None else args.bandwidth
    if len(targets) > 1:  # a bad bandwidth is said once, not for each file
        encoder.encode(np.zeros(1), encoder.sample_rate, bandwidth)

    def one(source: Path, target: Path, progress: Callable[[int, int], None]) -> str:
        rate = encoder.sample_rate
        audio = _Counted(source, rate, progress)
        smallest = np.min_scalar_type(encoder.config.codebook_size - 1)
        codes = [block.astype(smallest) for block in encoder.encode_stream(audio, rate, bandwidth)]
        tokens = np.concatenate(codes, axis=1)
        save_tokens(target, tokens, encoder, samples=audio.samples, overwrite=args.force)
        shape = " x ".join(map(str, tokens.shape))
        return f"wrote {target}: {shape} tokens, {audio.samples / rate:.2f} s at {bandwidth:g} kbps"

    _each(targets, one)


def _resynth(args: argparse.Namespace) -> None:
    targets = _targets(args.inputs, args.output, ".wav", [args.model, args.encoder], args.force)
    for _, target in targets:
        audio_format(target)
    if not args.output.is_dir():
        _check_forgotten_output(args.output)
    if args.plot:
        from .plot import check_plot, save_plot

        if len(targets) > 1:
            raise ValueError(f"--plot draws one recording, and {len(targets)} are given; leave it out")
        check_plot(args.plot)
        _check_output(args.plot, [*args.inputs, args.model, args.encoder, targets[0][1]], args.force)
        if targets[0][1].exists() and not targets[0][1].is_file():
            raise ValueError(f"--plot reads the copy again, and {targets[0][1]} is not a file; leave it out")
    vocos = VocosONNX(args.model, encoder=args.encoder, **_options(args))
    if len(targets) > 1:  # what fails here fails each file
        vocos(np.zeros(vocos.sample_rate), vocos.sample_rate, bandwidth=args.bandwidth)

    def one(source: Path, target: Path, progress: Callable[[int, int], None]) -> str:
        rate = vocos.sample_rate
        audio = _Counted(source, rate, progress)
        blocks = vocos.resynth_stream(audio, rate, bandwidth=args.bandwidth)
        # whole frames are decoded: what is longer than the recording is cut off
        written = save_blocks(
            target,
            _cut(blocks, vocos.hop_length, lambda n: min(n, audio.samples)),
            rate,
            overwrite=args.force,
            comment=MADE_BY,
        )
        if args.plot:
            audio_of = {str(path): load_audio(path, rate) for path in (source, target)}
            save_plot(args.plot, audio_of, rate, overwrite=args.force)
        return f"wrote {target}: {written / rate:.2f} s at {rate} Hz"

    _each(targets, one)


def _check_output(output: Path, inputs: Iterable[str | os.PathLike[str] | None], overwrite: bool) -> None:
    """As ``check_target``; and raises ValueError where the output is an input, or a file of a checkpoint's folder."""
    if output.is_file():
        for path in (find_model(given) for given in inputs if given is not None):
            files = [file for file in path.iterdir() if file.suffix != ".onnx"] if path.is_dir() else [path]
            if any(file.exists() and output.samefile(file) for file in files):
                raise ValueError(f"{output} would be written over itself; choose another output")
    check_target(output, overwrite=overwrite)


def _check_forgotten_output(output: Path) -> None:
    """Raises ValueError where a recording would be replaced, as by ``resynth *.wav``; copies made here may be."""
    import soundfile

    if not output.is_file():
        return
    try:
        with soundfile.SoundFile(output) as file:
            made_here = file.comment.startswith(MADE_BY)
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError):  # not audio
        return
    if not made_here:
        raise ValueError(
            f"{output} is a recording that was not made by vocos-onnx: it looks like one more input, with the output "
            "forgotten. Name another output, or a folder for several inputs"
        )


def _targets(
    inputs: list[Path], output: Path, suffix: str, models: list[str | None], overwrite: bool
) -> list[tuple[Path, Path]]:
    """Each input with the file it goes to: the output, or one of its own name in that folder."""
    if len(inputs) == 1 and not output.is_dir():
        targets = [(inputs[0], output)]
    elif output.is_dir():
        targets = [(source, output / (source.stem + suffix)) for source in inputs]
    else:
        raise FileNotFoundError(f"{len(inputs)} files need a folder to go to, and {output} is none; create it first")
    sources: dict[str, Path] = {}
    for source, target in targets:
        _check_output(target, [*inputs, *models], overwrite)
        real = os.path.realpath(target)
        if real in sources:
            raise ValueError(f"{sources[real]} and {source} would both be written to {target}; rename one of them")
        sources[real] = source
    return targets


def _each(targets: list[tuple[Path, Path]], one: Callable[[Path, Path, Callable[[int, int], None]], str]) -> None:
    """Do one after another. A bad file is reported and does not keep the others from being done."""
    failed = 0
    for i, (source, target) in enumerate(targets):
        bar = _Bar(sys.stderr, str(source), i, len(targets))
        try:
            done = one(source, target, bar)
        except BAD_INPUT as error:
            bar.clear()
            if len(targets) == 1:
                raise
            _complain(error)
            failed += 1
        else:
            bar.clear()
            _say(target, done)
    if failed:
        raise ValueError(f"{failed} of {len(targets)} files failed")


class _Counted:
    """The blocks of a file, counted as they are read: ``samples`` of ``rate`` so far."""

    def __init__(self, path: Path, rate: int, progress: Callable[[int, int], None]):
        self.path, self.rate, self.progress, self.samples = path, rate, progress, 0

    def __iter__(self) -> Iterator[Float]:
        for block in load_blocks(self.path, self.rate):
            yield block
            self.samples += len(block)
            self.progress(self.samples, max(self.samples, self._expected))

    @cached_property
    def _expected(self) -> int:
        return expected_samples(self.path, self.rate)


class _Bar:
    """A line of progress on a terminal: over all files, the one at hand by the frames that it has done."""

    WIDTH = 30

    def __init__(self, stream: TextIO | None, name: str, index: int, count: int):
        self.stream, self.name, self.index, self.count = stream, name, index, count
        self.quiet = stream is None or not stream.isatty()
        self.length = 0
        if count > 1:
            self(0, 1)

    def __call__(self, done: int, frames: int) -> None:
        if self.quiet:
            return
        share = (self.index + done / frames) / self.count
        full = round(share * self.WIDTH)
        line = f"[{'#' * full}{'.' * (self.WIDTH - full)}] {share:4.0%} {self.index + 1}/{self.count} {self.name}"
        line = line[: shutil.get_terminal_size().columns - 1]
        self._write("\r" + line.ljust(self.length))
        self.length = len(line)

    def clear(self) -> None:
        if self.length:
            self._write("\r" + " " * self.length + "\r")

    def _write(self, text: str) -> None:
        assert self.stream is not None
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:  # the terminal is gone
            self.quiet = True


def _stream(args: argparse.Namespace) -> None:
    vocos = VocosONNX(args.model, encoder=args.encoder, **_options(args))
    config = vocos.config
    audio: Iterator[Float]
    if args.kind == "audio":
        audio = vocos.resynth_stream(
            (block[:, 0] for block in _raw(PCM[args.format], 1)),
            vocos.sample_rate if args.rate is None else args.rate,
            bandwidth=args.bandwidth,
            lookahead=args.lookahead,
            chunk=args.chunk,
        )
    else:
        index = None
        if config.encodec is not None:
            index = vocos._bandwidth_index(args.bandwidth, None)
        elif args.bandwidth is not None:
            raise ValueError("--bandwidth is given, but this is a mel model, without tokens: leave it out")
        if args.kind == "features":
            frames = _raw("<f4", config.feature_channels)
        elif config.encodec is None or index is None:
            raise ValueError("this is a mel model: it decodes features, not tokens")
        else:
            frames = _raw("<i2", config.encodec.codebooks_per_bandwidth[index])
        audio = vocos.decode_stream(
            (block.T for block in frames), index if config.num_bandwidth_ids else None, lookahead=args.lookahead
        )
    out = sys.stdout.buffer
    for block in audio:
        if args.format == "s16le":
            block = np.round(block * 32768).clip(-32768, 32767)
        out.write(block.astype(PCM[args.format]).tobytes())
        out.flush()


def _raw(kind: str, width: int) -> Iterator[npt.NDArray[Any]]:
    """What has come in on stdin, as rows (n, width) of a dtype."""
    held, size = b"", np.dtype(kind).itemsize * width
    while data := sys.stdin.buffer.read1(1 << 16):  # type: ignore[union-attr]
        held += data
        whole = len(held) // size * size
        if whole:
            yield np.frombuffer(held[:whole], kind).reshape(-1, width)
            held = held[whole:]
    if held:
        raise ValueError(f"stdin ended with {len(held)} bytes of a frame of {size}; expected whole frames")


def _info(args: argparse.Namespace) -> None:
    path = find_model(args.model or CODEC)
    session = open_session(path, ["CPUExecutionProvider"], None, METADATA_KEY)
    is_encoder = ENCODER_KEY in session.get_modelmeta().custom_metadata_map
    found = (EncodecONNX if is_encoder else VocosONNX)(path, providers=["CPUExecutionProvider"])
    print(f"{'encoder' if is_encoder else 'model'}: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    for name, value in asdict(found.config).items():
        if isinstance(value, dict):
            print(f"{name}:")
            for inner, inner_value in value.items():
                print(f"  {inner}: {_text(inner_value)}")
        elif value is not None:
            print(f"{name}: {_text(value)}")
    if isinstance(found, VocosONNX) and found._backbone.has_istft:
        print("inverse STFT: in the graph")
    if args.provider:
        if is_encoder:
            raise ValueError("--provider is for models, and this is an encoder; leave it out")
        for provider, operators in placement(path, [args.provider]).items():
            print(f"{provider}: {len(operators)} nodes ({', '.join(sorted(set(operators)))})")


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _demo(args: argparse.Namespace) -> None:
    audio_format(args.output)
    check_target(args.output, overwrite=args.force)
    with np.load(default_model().with_name(DEMO_TOKENS)) as archive:
        tokens, source = archive["tokens"], str(archive["source"])
    began = time.perf_counter()
    vocos = _open(args, None)
    loaded = time.perf_counter()
    audio = vocos.decode(tokens)
    took = time.perf_counter() - loaded
    save_blocks(args.output, [audio], vocos.sample_rate, overwrite=args.force, comment=MADE_BY)
    seconds = len(audio) / vocos.sample_rate
    _say(
        args.output,
        f"wrote {args.output}: {seconds:.2f} s of speech at {vocos.sample_rate} Hz, decoded from {len(tokens)} x "
        f"{tokens.shape[1]} tokens of a real recording ({source})\n"
        f"loaded the model in {loaded - began:.2f} s and decoded in {took:.3f} s, {seconds / took:.0f} times faster "
        f"than real time, on {vocos.providers[0]}",
    )


def _report(args: argparse.Namespace) -> None:
    from vocos_onnx_train.report import report  # it says itself what the extra [report] lacks

    _check_output(args.output, [*args.inputs, *(args.model or []), args.encoder], True)
    several = len(args.inputs) > 1
    bar = _Bar(sys.stderr, str(args.inputs[0]), 0, len(args.inputs))
    errors: list[Exception] = []

    def progress(index: int, done: int, copies: int) -> None:
        bar.index, bar.name = index, str(args.inputs[index])
        bar(done, copies)

    def on_error(error: Exception) -> None:
        bar.clear()
        _complain(error)
        errors.append(error)

    try:
        report(
            args.output,
            args.inputs,
            args.model,
            args.encoder,
            args.bandwidths,
            progress,
            on_error if several else None,
            overwrite=args.force,
            **_options(args),
        )
    finally:
        bar.clear()
    count = len(args.inputs)
    size = f", {args.output.stat().st_size / 1e6:.1f} MB" if args.output.is_file() else ""
    _say(args.output, f"wrote {args.output}: {count - len(errors)} of {count} files{size}")
    if errors:
        raise ValueError(f"{len(errors)} of {count} files failed")


def _check_model_target(args: argparse.Namespace, output: str, *inputs: str | os.PathLike[str] | None) -> None:
    """Raises ValueError where an output is named like something else, which it may be that it would replace."""
    path = Path(output)
    if path.suffix.lower() != ".onnx":
        raise ValueError(f"{path.name!r} does not end in .onnx, the kind of file that a model is written to")
    _check_output(path, inputs, args.force)


def _export(args: argparse.Namespace) -> None:
    _check_model_target(args, args.output, args.checkpoint, args.config, *(args.calibrate or []))
    calibration = _calibration(args)
    _load_export().export(
        args.checkpoint,
        args.output,
        config=args.config,
        revision=args.revision,
        precision="int8" if args.int8 else "float16" if args.fp16 else "float32",
        istft=args.istft,
        calibration=calibration,
        overwrite=args.force,
    )


def _quantize(args: argparse.Namespace) -> None:
    output = Path(args.output)
    _check_model_target(args, args.output, args.model, *(args.calibrate or []))
    precision = "float16" if args.fp16 else "int8"
    calibration = _calibration(args)
    _load_export().quantize(args.model, output, precision=precision, calibration=calibration, overwrite=args.force)
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")


def _calibration(args: argparse.Namespace) -> list[npt.NDArray[Any]] | None:
    return None if args.calibrate is None else [read_token_file(path).codes for path in args.calibrate]


def _export_encodec(args: argparse.Namespace) -> None:
    _check_model_target(args, args.output, args.checkpoint)
    _load_export().export_encodec(args.checkpoint, args.output, revision=args.revision, overwrite=args.force)


def _load_export() -> Any:
    try:
        import vocos_onnx_export
    except ModuleNotFoundError as error:
        raise ImportError(f"export needs {error.name}: pip install 'vocos-onnx[export]'") from error
    return vocos_onnx_export


def _train(args: argparse.Namespace) -> None:
    try:
        from vocos_onnx_train.trainer import train
    except ModuleNotFoundError as error:
        raise ImportError(f"train needs {error.name}: pip install 'vocos-onnx[train]'") from error
    if args.export is not None:
        _check_model_target(args, args.export, args.config, args.init_from, args.encoder)
    train(
        args.config,
        args.out,
        train=args.train,
        valid=args.valid,
        steps=args.steps,
        encoder=args.encoder,
        token_cache=args.token_cache,
        checkpoint=args.init_from,
        revision=args.revision,
        device=args.device,
        compile=args.compile,
        model=args.export,
        report=lambda line: print(line, flush=True),
    )


def _open(args: argparse.Namespace, model: str | None) -> VocosONNX:
    return VocosONNX(model, **_options(args))


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {"providers": [args.provider] if args.provider else None, "threads": args.threads}


def _warn_of_no_codec(tokens: Tokens, vocos: VocosONNX) -> None:
    """One line on stderr where nothing says whose tokens have been decoded."""
    encodec = vocos.config.encodec
    if tokens.anonymous and encodec is not None:
        others = "" if encodec.codec == ENCODEC else " (Bark, VALL-E and the like have EnCodec's)"
        _tell(
            f"warning: the file names no codec: its tokens are taken for those of {encodec.codec}, which this model "
            f"decodes; those of another codec{others} come out as noise"
        )


if __name__ == "__main__":
    from .__main__ import main as program

    sys.exit(program())
