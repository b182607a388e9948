"""Converts an EnCodec encoder's checkpoint to a model file by filling the skeleton, and checks the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np

from vocos_onnx.arrays import Float
from vocos_onnx.dsp.audio_window import AudioWindow
from vocos_onnx.encoder_network import AudioSpan, open_encoder
from vocos_onnx.messages import shown
from vocos_onnx.model import skeletons
from vocos_onnx.model.checkpoint import CheckpointError, check_finite, read_state
from vocos_onnx.model.config import ENCODER_KEY, EncoderConfig, Source
from vocos_onnx.model.encoder_checkpoint import Geometry, check_name, read_geometry, translate
from vocos_onnx.model.providers import CPU
from vocos_onnx.model.sources import Files
from vocos_onnx.version import __version__

from .naming import naming
from .reference import encodec_embeddings, relative_difference

TOLERANCE = 1e-4  # of the embeddings' peak
_LENGTHS = (1, 321, 7001)  # samples
_FREE = ("sampling_rate", "target_bandwidths", "codebook_size")  # fields that do not affect the graph
_FIRST = 8  # frames of the first span, as in ``encoder``


def convert_encoder(files: Files, output: Path, *, report: Callable[[str], None] = lambda line: None) -> EncoderConfig:
    """Writes the encoder of EnCodec 24 kHz, from Meta's state dict or transformers' layout, as a model file.

    The file is checked against a numpy encoder in float64 that uses the checkpoint's weights directly.

    Args:
        files: the weights, and the config if there is one; Meta's state dict has none.
        output: path to write; an existing file is replaced. After an exception it may be incomplete.
        report: called with each line of the report.

    Returns the config stored in the file.

    Raises CheckpointError if config and weights are not those of this encoder, or if the file does not compute the same
    result as the checkpoint's weights.
    """
    with naming(files):
        geometry = read_geometry(files.config)
        _check_geometry(geometry)
        state, digest = read_state(files.weights, lambda key: key.startswith(("encoder.", "quantizer.")))
        check_name(files.weights, digest)
        state = translate(state)
        codebooks = _codebooks(state, geometry)
        state = {key: value for key, value in state.items() if not key.startswith("codebooks.")}
        check_finite({**state, "codebooks": codebooks})
        config = geometry.described(codebooks, Source(files.name, files.revision, digest, __version__))
        with output.open("wb") as file:
            file.writelines(
                skeletons.filled(
                    skeletons.load(skeletons.ENCODEC),
                    state,
                    metadata={ENCODER_KEY: config.to_json()},
                    codebooks=codebooks,
                    producer_version=__version__,
                )
            )
    difference = _difference(output, state, geometry)
    report(f"largest difference of the embeddings from float64 arithmetic, relative to the peak: {difference:.1e}")
    if not difference <= TOLERANCE:  # also true for NaN
        raise CheckpointError(
            f"the encoder made of {files.name} differs from its weights by {difference:.1e} of the embeddings' peak, "
            f"expected at most {TOLERANCE:g}"
        )
    return config


def _check_geometry(geometry: Geometry) -> None:
    """Raises CheckpointError if the geometry is not that of EnCodec 24 kHz."""
    usual = Geometry()
    for name in (field.name for field in fields(Geometry) if field.name not in _FREE):
        if getattr(geometry, name) != getattr(usual, name):
            raise CheckpointError(
                f"{name} is {shown(getattr(geometry, name))}, and a graph is bundled for {getattr(usual, name)} alone; "
                "convert it with torch: pip install 'vocos-onnx[export]', and vocos-onnx export-encodec CHECKPOINT "
                "-o encoder.onnx"
            )


def _codebooks(state: dict[str, Float], geometry: Geometry) -> Float:
    """The codebooks (K, size, C) that the bandwidths use; a checkpoint may have more."""
    names = [f"codebooks.{k}" for k in range(max(geometry.codebooks_per_bandwidth))]
    given = {name: state[name].shape for name in names if name in state}
    expected = dict.fromkeys(names, (geometry.codebook_size, geometry.hidden_size))
    skeletons.check_shapes(given, expected, "is not that of this EnCodec")
    return np.stack([state[name] for name in names])


def _difference(path: Path, state: dict[str, Float], geometry: Geometry) -> float:
    """The largest difference of the embeddings from those of ``reference``, relative to their peak.

    Measured on random audio; if it is long enough, in two spans.
    """
    session, network = open_encoder(path, [CPU], 1)
    rng, worst = np.random.default_rng(0), 0.0
    for samples in _LENGTHS:
        audio = rng.normal(0, 0.1, (1, samples)).astype(np.float32)
        expected = encodec_embeddings(state, geometry, audio[0])
        frames, found, carried = len(expected), [], network.start(1)
        window, context = AudioWindow([audio]), session.config.left_context
        window.read_until(samples)
        for start, stop in ((0, _FIRST), (_FIRST, frames)) if frames > _FIRST else ((0, frames),):
            first = max(0, start - context)
            span = AudioSpan(start, stop, first, stop, network.cut(window, first, stop))
            embeddings, carried = network.run(span, carried)
            found.append(embeddings[0])
        worst = max(worst, relative_difference(np.concatenate(found), expected))
    return worst
