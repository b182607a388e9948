"""``vocos-onnx resynth``: copy-synthesis, from audio files to tokens or mels and back."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

from vocos_onnx.io.kinds import AUDIO, kind_of
from vocos_onnx.messages import printable

from . import options
from .jobs import Job, check_output, expand, plan_jobs, run_jobs
from .models import check_encoder, open_vocoder
from .options import OUTPUTS
from .parser import Commands
from .progress import Progress

_HEAD = 1 << 13  # bytes that suffice to tell what a file is


def add(commands: Commands) -> None:
    parser = commands.add(
        "resynth",
        run,
        "copy-synthesis: audio files through tokens or mels, and back",
        """
        resynth speech.flac copy.wav
        resynth *.wav copies/                  # several files, each under its own name
        resynth - - --format flac < speech.mp3 | ffplay -
        """,
    )
    options.add_session(parser)
    options.add_recordings(parser)
    options.add_audio_format(parser)
    options.add_force(parser)
    parser.add_argument("output", type=options.name, metavar="OUT", help=f"audio file to write; {OUTPUTS}")
    options.add_model(parser)
    parser.add_argument("--plot", type=options.path, metavar="P.png", help="draw the two spectrograms, of one file")


def run(args: Namespace) -> None:
    import numpy as np

    from vocos_onnx.io.samples import cut_end

    from .audio import Recording, check_audio, save

    inputs = expand(args.inputs, AUDIO, "audio files")
    vocos = open_vocoder(args, args.model, args.encoder)
    rate = vocos.sample_rate

    def is_input(path: Path) -> bool:
        return _is_recording(path, rate)

    suffix = f".{args.format or 'wav'}"
    jobs, folder = plan_jobs(args, inputs, suffix, [args.model, args.encoder], check_audio, is_input)
    if args.plot:
        _check_plot(args, jobs)
    check_encoder(args, vocos)
    if len(jobs) > 1:  # raises here, once, instead of for each file
        vocos(np.zeros(rate), rate, bandwidth=args.bandwidth)

    def copy_file(job: Job, path: Path, progress: Progress) -> str:
        recording = Recording(path, job.source_name, rate, progress)
        blocks = vocos.resynth_stream(recording, rate, bandwidth=args.bandwidth)
        # whole frames are decoded, so the copy is cut to the length of the recording
        copy = cut_end(blocks, vocos.hop_length, lambda decoded: min(decoded, recording.samples))
        written = save(job, copy, rate, args.force)
        if args.plot:
            _plot(args, job, path, rate)
        return f"wrote {job.target_name}: {written / rate:.2f} s at {rate} Hz"

    run_jobs(jobs, folder, copy_file)


def _is_recording(path: Path, rate: int) -> bool:
    """Whether a file is audio that was not made by a command of vocos-onnx.

    Copies are mono, at ``rate``, and marked by a comment if their format has room for one.
    """
    import soundfile

    from vocos_onnx.io.audio import MADE_BY

    if not path.is_file():
        return False
    try:
        with path.open("rb") as data, soundfile.SoundFile(data) as file:  # soundfile opens only UTF-8 names
            comment, kind, subtype = file.comment, file.format, file.subtype
            if comment or (file.channels, file.samplerate) != (1, rate):
                return not comment.startswith(MADE_BY)
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError):
        with suppress(OSError), path.open("rb") as data:
            found, _ = kind_of(data.read(_HEAD), True)
            return found is not None and found.group == "audio"
        return False
    with tempfile.TemporaryFile() as empty, soundfile.SoundFile(empty, "w", rate, 1, subtype, None, kind) as file:
        try:
            file.comment = MADE_BY
        except soundfile.LibsndfileError:  # formats such as .au have no comments
            return False
    return True


def _check_plot(args: Namespace, jobs: list[Job]) -> None:
    """Raises ValueError, OSError or ImportError if --plot cannot be drawn."""
    from vocos_onnx.io.plot import check_plot

    if len(jobs) > 1:
        raise ValueError(f"--plot draws one recording, and {len(jobs)} are given; leave it out")
    check_plot(args.plot)
    (job,) = jobs
    check_output(args.plot, [job.source, args.model, args.encoder, job.target], args.force)
    if job.target is None or job.format or (job.target.exists() and not job.target.is_file()):
        raise ValueError(f"--plot reads the copy again, and {job.target_name} is not a file; leave it out")


def _plot(args: Namespace, job: Job, recording: Path, rate: int) -> None:
    """Draw the recording and its copy."""
    from vocos_onnx import load_audio
    from vocos_onnx.io.plot import save_plot

    assert job.target is not None
    titled = {job.source_name: recording, job.target_name: job.target}
    # matplotlib would take $ for the start of a formula
    audio = {printable(title).replace("$", r"\$"): load_audio(file, rate) for title, file in titled.items()}
    save_plot(args.plot, audio, rate, overwrite=args.force)
