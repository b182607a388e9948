"""``vocos-onnx encode``: encode audio files to files of tokens."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vocos_onnx.io.kinds import AUDIO

from . import options
from .jobs import Job, ends_in, expand, plan_jobs, run_jobs
from .mistaken import explained
from .models import session_options
from .options import OUTPUTS
from .parser import Commands
from .progress import Progress

if TYPE_CHECKING:
    import numpy.typing as npt

    from vocos_onnx import EncodecONNX


def add(commands: Commands) -> None:
    parser = commands.add(
        "encode",
        run,
        "encode audio files to tokens",
        """
        encode speech.wav tokens.npz --bandwidth 3
        encode recordings/ tokens/             # every audio file of a folder
        encode - - < speech.mp3 > tokens.npz
        """,
    )
    options.add_session(parser)
    options.add_recordings(parser)
    options.add_force(parser)
    parser.add_argument("output", type=options.name, metavar="OUT", help=f".npz file to write; {OUTPUTS}")
    parser.add_argument("--format", choices=["npz"], help="of the tokens (default: by the name of the output)")


def run(args: Namespace) -> None:
    import numpy as np

    from vocos_onnx import EncodecONNX
    from vocos_onnx.bandwidths import DEFAULT_BANDWIDTH, bandwidth_index

    from .audio import Recording

    inputs = expand(args.inputs, AUDIO, "audio files")
    jobs, folder = plan_jobs(args, inputs, ".npz", [args.encoder], _check_tokens, ends_in(AUDIO))
    with explained(("encode", args.encoder)):
        encoder = EncodecONNX(args.encoder, **session_options(args))
    bandwidth = DEFAULT_BANDWIDTH if args.bandwidth is None else args.bandwidth
    bandwidth_index(bandwidth, encoder.bandwidths)  # raises here, once, instead of for each file
    smallest = np.min_scalar_type(encoder.config.codebook_size - 1)

    def encode_file(job: Job, path: Path, progress: Progress) -> str:
        recording = Recording(path, job.source_name, encoder.sample_rate, progress)
        blocks = encoder.encode_stream(recording, encoder.sample_rate, bandwidth)
        codes = np.concatenate([block.astype(smallest) for block in blocks], axis=1)
        _save(job, codes, encoder, recording.samples, args.force)
        shape, seconds = " x ".join(map(str, codes.shape)), recording.samples / encoder.sample_rate
        return f"wrote {job.target_name}: {shape} tokens, {seconds:.2f} s at {bandwidth:g} kbps"

    run_jobs(jobs, folder, encode_file)


def _check_tokens(target: Path | None, format: str | None) -> str | None:
    """Returns the format of an output, None if its name implies it. Raises ValueError if it is no name for tokens."""
    if target is None or (target.exists() and not target.is_file() and not target.is_dir()):
        return "npz"
    if target.suffix.lower() == ".npz":
        return None
    if format is not None and not target.suffix:
        return format
    folder = "" if target.suffix else f"; a folder is {target}/"
    raise ValueError(f"{target.name!r} does not end in .npz, the kind of file that tokens are written to{folder}")


def _save(job: Job, codes: npt.NDArray[Any], encoder: EncodecONNX, samples: int, overwrite: bool) -> None:
    from vocos_onnx import save_tokens
    from vocos_onnx.io.files import whole_file

    if job.target is None or job.format is None:
        save_tokens(job.output, codes, encoder, samples=samples, overwrite=overwrite)
    else:  # save_tokens takes the format from the file name, which does not imply it here
        with whole_file(job.target, overwrite=overwrite) as partial, partial.open("wb") as file:
            save_tokens(file, codes, encoder, samples=samples)
