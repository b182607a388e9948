"""``vocos-onnx stream``: turn raw tokens, features or audio on stdin into raw audio on stdout."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import options
from .console import BAD_INPUT, StandardOutput, check_terminal, tell
from .models import check_encoder, open_vocoder
from .parser import Commands

if TYPE_CHECKING:
    from vocos_onnx import VocosONNX
    from vocos_onnx.arrays import Float
    from vocos_onnx.model.config import EncodecFeatures

    from .raw import Rows

PCM = {"s16le": "<i2", "f32le": "<f4"}
CHUNK, MAX_CHUNK = 8, 100_000  # frames of audio encoded at once; the maximum is 22 minutes with the bundled codec


def add(commands: Commands) -> None:
    parser = commands.add(
        "stream",
        run,
        "raw tokens, features or audio on stdin to raw audio on stdout, as they arrive",
        """
        stream tokens --bandwidth 6 < tokens.raw > audio.raw
        stream audio < audio.raw > copy.raw    # 16 bits, mono, 24000 Hz; ffmpeg makes it: -f s16le -ac 1 -ar 24000 -
        """,
    )
    options.add_session(parser)
    parser.add_argument(
        "kind",
        choices=("tokens", "features", "mels", "audio"),
        help="tokens as 16-bit integers, frame after frame, each with all codebooks of the --bandwidth "
        "(numpy: tokens.T.astype('<i2').tobytes()); features (mels) in the same way as 32-bit floats; or mono audio",
    )
    options.add_model(parser)
    options.add_encoder(parser)
    options.add_bandwidth(parser)
    parser.add_argument(
        "--rate", type=options.integer, metavar="HZ", help="sample rate of the audio on stdin (default: the model's)"
    )
    parser.add_argument("--format", choices=list(PCM), default="s16le", help="sample format of the audio, in and out")
    parser.add_argument(
        "--lookahead", type=options.integer, metavar="N", help="frames to wait for; fewer: less delay, but not exact"
    )
    parser.add_argument(
        "--chunk",
        type=options.integer,
        metavar="N",
        default=CHUNK,
        help=f"frames of audio encoded at once (default: {CHUNK})",
    )


def run(args: Namespace) -> None:
    check_terminal(sys.stdin, "raw numbers are to come from it")
    check_terminal(sys.stdout, "the output is raw audio")
    if args.kind != "audio":
        given = {"--rate": args.rate, "--encoder": args.encoder, "--chunk": None if args.chunk == CHUNK else args.chunk}
        if (option := next((name for name, value in given.items() if value is not None), None)) is not None:
            raise ValueError(f"{option} is for stream audio, and nothing that stream {args.kind} uses: leave it out")
    vocos = open_vocoder(args, args.model, args.encoder)
    if args.chunk > MAX_CHUNK:
        raise ValueError(f"--chunk is {args.chunk}, expected 1 to {MAX_CHUNK} frames")
    errors: list[Exception] = []  # in the input: everything before an error is decoded and written first
    audio = _of_audio(args, vocos, errors) if args.kind == "audio" else _of_frames(args, vocos, errors)
    try:
        for block in audio:
            _write(block, args.format)
    except BAD_INPUT as error:
        errors.append(error)
    if errors:  # the first one ended the stream
        raise errors[0]


def _of_audio(args: Namespace, vocos: VocosONNX, errors: list[Exception]) -> Iterator[Float]:
    """Returns the copy of the audio on stdin, block by block."""
    from .raw import RawInput, audio_before_errors

    check_encoder(args, vocos)
    rate = vocos.sample_rate if args.rate is None else args.rate
    samples = RawInput(args, PCM[args.format], 1, rate)
    return vocos.resynth_stream(
        audio_before_errors(samples, errors), rate, bandwidth=args.bandwidth, lookahead=args.lookahead, chunk=args.chunk
    )


def _of_frames(args: Namespace, vocos: VocosONNX, errors: list[Exception]) -> Iterator[Float]:
    """Returns the audio of the tokens or features on stdin, block by block."""
    from vocos_onnx.bandwidths import DEFAULT_BANDWIDTH, bandwidth_index

    from .raw import RawInput, frames_before_errors

    config, index = vocos.config, None
    if config.encodec is not None:
        bandwidth = DEFAULT_BANDWIDTH if args.bandwidth is None else args.bandwidth
        index = bandwidth_index(bandwidth, config.encodec.bandwidths)
    elif args.bandwidth is not None:
        raise ValueError("--bandwidth is given, but this is a mel model, without tokens: leave it out")
    size = None
    if args.kind in ("features", "mels"):
        frames = RawInput(args, "<f4", config.feature_channels, vocos.sample_rate)
    elif config.encodec is None or index is None:
        raise ValueError("this is a mel model: it decodes features, not tokens")
    else:
        size = config.encodec.codebook_size
        frames = RawInput(args, "<i2", config.encodec.codebooks_per_bandwidth[index], vocos.sample_rate)
    checked = frames_before_errors(frames, size, errors)
    if args.kind == "tokens" and args.bandwidth is None and config.encodec and len(config.encodec.bandwidths) > 1:
        checked = _with_a_remark(checked, config.encodec)
    return vocos.decode_stream(
        checked,
        index if config.num_bandwidth_ids else None,
        lookahead=args.lookahead,
    )


def _with_a_remark(frames: Iterator[Rows], codec: EncodecFeatures) -> Iterator[Rows]:
    """Yields the tokens unchanged, after a line on how many codebooks are assumed because --bandwidth is missing."""
    from vocos_onnx.bandwidths import DEFAULT_BANDWIDTH, counted

    for number, chunk in enumerate(frames):
        if not number:
            each = zip(codec.bandwidths, codec.codebooks_per_bandwidth, strict=True)
            others = ", ".join(f"{kbps:g} for {count}" for kbps, count in each if count != len(chunk))
            tell(
                f"reading {counted(len(chunk))} of {codec.codec} a frame, those of {DEFAULT_BANDWIDTH:g} kbps; for "
                f"another number pass --bandwidth: {others}"
            )
        yield chunk


def _write(block: Float, format: str) -> None:
    from vocos_onnx.io.samples import to_int16

    output = StandardOutput()
    samples = to_int16(block) if format == "s16le" else block
    output.write(samples.astype(PCM[format]).tobytes())
    output.flush()
