"""Exports EnCodec encoders to .onnx: Meta's, those in the layout of facebook/encodec_24khz, and trained codecs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from vocos_onnx import EncodecONNX
from vocos_onnx.encoder import CHUNK
from vocos_onnx.model.config import EncoderConfig
from vocos_onnx.model.providers import CPU

from .encodec_checkpoint import CONFIG, WEIGHTS, find_encodec, load_encodec
from .modules import STFTEncoder
from .seanet import SEANetEncoder
from .seanet_graph import seanet_graph
from .sources import download, local_path
from .target import Target, save
from .tracing import trace_encoder
from .trained_codec import is_trained, load_trained
from .verify import Row, finite, relative

Encoder = SEANetEncoder | STFTEncoder

LENGTHS = (1, 319, 320, 321, 2240, 24_001)
BATCHES = (1, 2)
TOLERANCE = 1e-4  # of the embeddings' peak


def export_encodec(
    checkpoint: str,
    output: str | os.PathLike[str],
    *,
    revision: str | None = None,
    overwrite: bool = True,
    report: Callable[[str], None] = print,
) -> EncoderConfig:
    """Writes an encoder and its codebooks as one self-contained .onnx, and verifies it against torch.

    Args:
        checkpoint: Meta's encodec_24khz-d7cc33bc.th; a folder, or a .safetensors or .bin file with config.json beside
            it, in the layout of facebook/encodec_24khz, or its hub id; or the folder of a codec trained with
            ``train/``.
        output: path to write. Nothing is written, and an existing file stays, unless the verification passes.
        revision: branch, tag or commit on the hub.
        overwrite: whether to replace an existing file.
        report: called with each line of the report.

    Returns the config stored in the file.

    Raises:
        FileNotFoundError: if the checkpoint, its config or the output's folder does not exist.
        FileExistsError: if the output exists and ``overwrite`` is false.
        CheckpointError: if the checkpoint is not a supported encoder, or the result differs from torch.

    Example:
        >>> export_encodec("facebook/encodec_24khz", "encodec.onnx")
    """
    target = Target(output, overwrite=overwrite)
    encoder, codebooks, config = _load(checkpoint, revision)
    if isinstance(encoder, SEANetEncoder):
        proto = seanet_graph(encoder, config, codebooks)
    else:
        proto = trace_encoder(encoder, config, codebooks)
    with target.staged() as written:
        save(proto, written)
        runtime = EncodecONNX(written, providers=[CPU], threads=3)  # so the audio is split into parts
        if not np.array_equal(runtime.codebooks, codebooks.numpy()):
            raise target.refused(f"the exported codebooks are not those of {checkpoint}")
        rows = list(verify(encoder, runtime))
        del runtime
        worst = max(rows, key=lambda row: math.inf if math.isnan(row.difference) else row.difference)
        report(f"largest difference of the embeddings from torch, relative to the peak: {worst.difference:.1e}")
        if not all(row.difference <= TOLERANCE for row in rows):  # also true for NaN
            raise target.refused(
                f"the exported encoder differs from torch by {worst.difference:.1e} (batch {worst.batch}, "
                f"{worst.frames} samples)"
            )
    report(target.wrote)
    return config


@torch.inference_mode()
def verify(encoder: Encoder, runtime: EncodecONNX) -> Iterator[Row]:
    """Compares embeddings at lengths around every boundary, and for audio longer than the runtime encodes at once."""
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        for samples in (*LENGTHS, (CHUNK // batch + 40) * runtime.hop_length + 123):
            audio = rng.normal(0, 0.1, (batch, samples)).astype(np.float32)
            expected = encoder(torch.from_numpy(audio))
            given = finite(lambda: runtime.embed(audio, runtime.sample_rate))  # noqa: B023
            yield Row(None, batch, samples, "embeddings", relative(given, expected))


def _load(checkpoint: str, revision: str | None) -> tuple[Encoder, Tensor, EncoderConfig]:
    """Returns modules with their weights, codebooks (K, size, C), and the config of both."""
    path = local_path(checkpoint, revision)
    if path is None:
        return load_encodec(download(checkpoint, revision, (CONFIG,), WEIGHTS))
    return load_trained(path) if is_trained(path) else load_encodec(find_encodec(path))
