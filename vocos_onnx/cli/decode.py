"""``vocos-onnx decode``: decode files of tokens or features to audio files."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vocos_onnx.io.kinds import ARRAYS, TOKENS
from vocos_onnx.messages import in_python, python_command

from . import options
from .console import warn
from .jobs import Job, ends_in, expand, plan_jobs, run_jobs
from .models import open_vocoder
from .options import INPUTS, OUTPUTS
from .parser import Commands
from .progress import Progress

if TYPE_CHECKING:
    from vocos_onnx import MelConvention, ModelConfig, Tokens
    from vocos_onnx.arrays import Float


def add(commands: Commands) -> None:
    parser = commands.add(
        "decode",
        run,
        "decode tokens or features to audio files",
        """
        decode tokens.npz out.wav
        decode tokens/ audio/                  # every token file of a folder
        decode - - --format flac < t.npz > a.flac
        decode tokens.npy out.wav --model charactr/vocos-encodec-24khz    # tokens of EnCodec
        decode bark.npz out.wav --model charactr/vocos-encodec-24khz --key fine_prompt
        decode mels.npy out.wav --model vocos-mel-24khz-small --mels-from f5
        """,
    )
    options.add_session(parser)
    options.add_audio_format(parser)
    options.add_force(parser)
    parser.add_argument(
        "inputs",
        type=options.name,
        nargs="+",
        metavar="TOKENS",
        help=f"token files; {INPUTS.format(', '.join(TOKENS))}",
    )
    parser.add_argument(
        "output", type=options.name, metavar="OUT", help=f"audio file to write, e.g. out.wav; {OUTPUTS}"
    )
    options.add_model(parser)
    options.add_bandwidth(
        parser,
        "of the tokens, as encode takes it; if they have more codebooks than that, the first ones are decoded "
        "(default: that of all codebooks)",
    )
    parser.add_argument(
        "--bandwidth-id",
        type=options.integer,
        metavar="N",
        help="decode all codebooks, as tokens of bandwidth N of the model's list, from 0: the "
        "bandwidth_id of upstream Vocos",
    )
    parser.add_argument("--layout", help="axes of 3-D tokens: kbt (codebooks, batch, frames; the default) or bkt")
    parser.add_argument(
        "--mels-from",
        type=options.mels_from,
        metavar="NAME",
        help="system whose mels these are: f5, zipvoice, matcha, chattts or mlx (default: as the model has them)",
    )
    parser.add_argument("--key", metavar="NAME", help="name of the array, in a file that holds several")


def run(args: Namespace) -> None:
    from vocos_onnx.batch.work import decoded
    from vocos_onnx.io.tokens import check_not_empty, of_no_codec, read_token_file

    from .audio import check_audio, save

    if args.bandwidth is not None and args.bandwidth_id is not None:
        raise ValueError(
            f"--bandwidth {args.bandwidth:g} decodes the first codebooks, those of {args.bandwidth:g} kbps, and "
            f"--bandwidth-id {args.bandwidth_id} decodes all, as tokens of that bandwidth: give one of the two"
        )
    inputs = expand(args.inputs, TOKENS, "token files")
    jobs, folder = plan_jobs(args, inputs, f".{args.format or 'wav'}", [args.model], check_audio, ends_in(ARRAYS))
    vocos = open_vocoder(args, args.model)
    bandwidth_id, codebooks = _bandwidth(args, vocos.config)
    convention = _convention(args, vocos.config)
    rate, hop = vocos.sample_rate, vocos.hop_length
    warned = False

    def decode_file(job: Job, path: Path, progress: Progress) -> str:
        nonlocal warned
        read = read_token_file(path, args.key)
        check_not_empty(read, job.source_name)
        tokens = _first_codebooks(job, _one_clip(job, read, args, vocos.config), args, vocos.config, codebooks)
        frames_axis = -2 if convention is not None and convention.axes == "btc" else -1
        samples = tokens.codes.shape[frames_axis] * hop if tokens.codes.ndim > 1 else 0

        blocks = decoded(
            vocos, tokens, job.source_name, bandwidth_id, layout=args.layout or "kbt", mels_from=convention
        )

        def counted() -> Iterator[Float]:
            done = 0
            for block in blocks:
                yield block
                done += len(block)
                progress(min(done, samples), samples)

        written = save(job, counted(), rate, args.force)
        if not warned and read.anonymous and vocos.config.encodec is not None:
            warned = True
            warn(of_no_codec(job.source_name, vocos.config.encodec.codec))
        return f"wrote {job.target_name}: {written / rate:.2f} s at {rate} Hz"

    run_jobs(jobs, folder, decode_file)


def _bandwidth(args: Namespace, config: ModelConfig) -> tuple[int | None, int | None]:
    """Returns the bandwidth id (None: implied by the tokens) and the number of codebooks to decode (None: all)."""
    from vocos_onnx.bandwidths import bandwidth_index

    if args.bandwidth is None:
        return args.bandwidth_id, None
    if config.encodec is None:
        raise ValueError("--bandwidth is given, but this is a mel model, without tokens: leave it out")
    index = bandwidth_index(args.bandwidth, config.encodec.bandwidths)
    return index if config.num_bandwidth_ids else None, config.encodec.codebooks_per_bandwidth[index]


def _one_clip(job: Job, read: Tokens, args: Namespace, config: ModelConfig) -> Tokens:
    """Returns tokens (K, T) or features (C, T), unpacked from a batch of one. Raises ValueError for a larger batch."""
    if read.codes.ndim != 3:
        return read
    are_tokens = read.codes.dtype.kind != "f"
    axis = 1 if args.layout in (None, "kbt") and are_tokens else 0  # of the batch
    one, two, _ = read.codes.shape
    if axis and args.layout is None and config.encodec is not None and min(one, two) > 1:
        counts = config.encodec.codebooks_per_bandwidth
        if one in counts and two in counts:
            raise ValueError(
                f"{job.source_name} holds a batch of {one} or of {two}, by its shape {read.codes.shape}: pass --layout "
                "bkt if its axes are (batch, codebooks, frames), or --layout kbt if they are (codebooks, batch, frames)"
            )
        if two in counts:
            axis = 0
    count = read.codes.shape[axis]
    if count > 1:
        key = f", key={in_python(args.key)}" if args.key else ""
        items = f"vocos_onnx.load_tokens({in_python(str(job.source or 'FILE'))}{key}).codes"
        items += ".swapaxes(0, 1)" if axis else ""
        code = f'import numpy, vocos_onnx; [numpy.save(f"item{{i}}.npy", item) for i, item in enumerate({items})]'
        raise ValueError(
            f"{job.source_name} holds a batch of {count}, and {job.target_name} can hold one clip; each item is saved "
            f"to a file of its own with: {python_command(code)}"
        )
    return replace(read, codes=read.codes.squeeze(axis)) if count else read


def _first_codebooks(job: Job, read: Tokens, args: Namespace, config: ModelConfig, most: int | None) -> Tokens:
    """Returns the first ``most`` codebooks of tokens (K, T), or all if that is None; features are returned unchanged.

    Raises ValueError if there are fewer, or if no bandwidth is given and none has as many.
    """
    from vocos_onnx.bandwidths import may_be_swapped
    from vocos_onnx.io.tokens import cut_codebooks
    from vocos_onnx.limits import MAX_CODEBOOKS

    encodec = config.encodec
    if read.codes.dtype.kind == "f" or read.codes.ndim != 2 or encodec is None:
        return read
    found, frames = read.codes.shape
    counts = encodec.codebooks_per_bandwidth
    fitting = [(kbps, count) for kbps, count in zip(encodec.bandwidths, counts, strict=True) if count <= found]
    remedy = "leave --bandwidth out"
    if fitting:
        kbps, count = fitting[-1]
        remedy = f"pass --bandwidth {kbps:g} to decode {'all' if count == found else f'the first {count}'} of them"
    elif config.num_bandwidth_ids:
        remedy = f"pass --bandwidth-id 0 to decode them as those of {encodec.bandwidths[0]:g} kbps"
    if most is not None and not may_be_swapped(read.codes.shape, encodec.num_codebooks):
        if found < most:
            raise ValueError(
                f"{job.source_name} has {found} codebooks, but {args.bandwidth:g} kbps needs {most}: {remedy}"
            )
        return cut_codebooks(read, most, encodec.num_codebooks)
    may_be_rows = found > 0 and frames >= encodec.num_codebooks and found <= MAX_CODEBOOKS  # else the axes are swapped
    is_own = read.codec in (None, encodec.codec)  # tokens of another codec are refused for that
    if is_own and may_be_rows and args.bandwidth_id is None and config.num_bandwidth_ids and found not in counts:
        known = ", ".join(f"{kbps:g} kbps {count}" for kbps, count in zip(encodec.bandwidths, counts, strict=True))
        raise ValueError(f"{job.source_name} has {found} codebooks, and no bandwidth has as many ({known}): {remedy}")
    return read


def _convention(args: Namespace, config: ModelConfig) -> MelConvention | None:
    """Returns the convention of --mels-from, or None. Raises ValueError if the model cannot decode such mels."""
    from vocos_onnx.mels import convention_of

    if args.mels_from is None:
        return None
    if config.encodec is not None:
        raise ValueError(
            f"--mels-from is given, but this model decodes tokens of {config.encodec.codec}: leave it out, or pass a "
            "--model of mels, such as vocos-mel-24khz-small"
        )
    return convention_of(args.mels_from, config.feature_channels)
