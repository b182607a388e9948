"""Streamed, long and ragged input gives the audio of a single whole decode."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Generator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Never

import numpy as np
import pytest

from tests.helpers import DATA, altered, decode_together, imdct, istft
from vocos_onnx import EncodecONNX, Tokens, VocosONNX
from vocos_onnx.frames import Frames
from vocos_onnx.inverse import IMDCT, ISTFT, OverlapAdd, Samples, Transform
from vocos_onnx.model.cpus import available_cpus
from vocos_onnx.model.onnx_file import STEP
from vocos_onnx.model.providers import CUDA
from vocos_onnx.spans import MOST, Plan, stacked

NASTY = (1, 2, 3, 8, 9, 10, 17, 18, 19, 26, 27, 28, 53, 54, 55, 1000)
STREAMED = ("encodec", "mel", "imdct-symexp", "wavenext", "encodec-int8", "mel-int8", "mel-istft")


def random_input(vocos: VocosONNX, frames: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if vocos.config.encodec:
        return rng.integers(1024, size=(2, frames))
    return rng.uniform(-8, 2, (vocos.config.feature_channels, frames)).astype(np.float32)


def cuts(frames: int, rng: np.random.Generator) -> list[int]:
    """The chunk ends of a random chunking."""
    inner: Any = rng.choice(np.arange(1, frames), rng.integers(0, min(frames, 30)), replace=False) if frames > 1 else []
    return [*sorted(int(i) for i in inner), frames]


def streamed(vocos: VocosONNX, given: np.ndarray, ends: list[int], **options: Any) -> np.ndarray:
    stream = vocos.stream(**options)
    starts = [0, *ends[:-1]]
    return np.concatenate([*(stream.push(given[:, a:b]) for a, b in zip(starts, ends, strict=True)), stream.flush()])


def check(given: np.ndarray, expected: np.ndarray, vocos: VocosONNX) -> None:
    assert given.dtype == np.float32
    assert given.shape == expected.shape
    # an MDCT model that clips at 1 sums coefficients of up to 100, with rounding errors to match
    peak = 100 if vocos.config.head == "imdct_symexp" else np.abs(expected).max(initial=0)
    assert np.abs(given - expected).max(initial=0) <= 1e-5 * peak


@pytest.fixture(scope="module", params=STREAMED)
def vocos(request: pytest.FixtureRequest) -> VocosONNX:
    return VocosONNX(DATA / f"{request.param}.onnx")


@pytest.mark.parametrize("frames", NASTY)
def test_any_chunking_gives_what_decode_gives(vocos: VocosONNX, frames: Any) -> None:
    given = random_input(vocos, frames)
    expected = vocos.decode(given)
    rng = np.random.default_rng(frames)
    chunkings = [[frames], *(cuts(frames, rng) for _ in range(5))]
    if frames < 100:
        chunkings.append(list(range(1, frames + 1)))  # one frame at a time
    for ends in chunkings:
        check(streamed(vocos, given, ends), expected, vocos)


def test_no_frame_at_all(vocos: VocosONNX) -> None:
    assert vocos.stream().flush().shape == (0,)
    assert [audio.shape for audio in vocos.decode_stream([])] == [(0,)]


def test_the_generator(vocos: VocosONNX) -> None:
    given = random_input(vocos, 100)
    audio = list(vocos.decode_stream(given[:, i : i + 7] for i in range(0, 100, 7)))
    assert len(audio) > 10
    assert all(a.size for a in audio)
    check(np.concatenate(audio), vocos.decode(given), vocos)


def test_audio_comes_as_early_as_it_can() -> None:
    """The delay is only the network's look-ahead plus the samples that later frames overlap."""
    vocos = VocosONNX(DATA / "encodec.onnx")
    assert vocos.delay == 9  # three convolutions
    stream, tokens = vocos.stream(), random_input(vocos, 60)
    late = vocos.delay * vocos.hop_length + (vocos.config.n_fft - vocos.hop_length) // 2
    got = 0
    for i in range(60):
        got += stream.push(tokens[:, i : i + 1]).size
        assert got == max(0, (i + 1) * vocos.hop_length - late)


def test_delay_of_a_stream(vocos: VocosONNX) -> None:
    """After n frames, n·hop - delay_samples samples have been emitted, with any look-ahead."""
    given = random_input(vocos, 40)
    for lookahead in range(vocos.delay + 1):
        stream, emitted = vocos.stream(lookahead=lookahead), 0
        assert stream.delay == lookahead
        for n in range(1, 41):
            emitted += stream.push(given[:, n - 1 : n]).size
            assert emitted == max(0, n * vocos.hop_length - stream.delay_samples)
    config = vocos.config
    overlap = config.n_fft // 2 if config.padding == "center" else (config.n_fft - config.hop_length) // 2
    assert vocos.stream().delay_samples == vocos.delay * config.hop_length + overlap


def test_nothing_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    vocos = VocosONNX(DATA / "encodec.onnx")
    frames, run = [], vocos.network._session.run

    def counting(shapes: Any, inputs: Any, **options: Any) -> Any:
        frames.append(inputs["features"].shape[2])
        return run(shapes, inputs, **options)

    monkeypatch.setattr(vocos.network._session, "run", counting)
    streamed(vocos, random_input(vocos, 100), list(range(5, 101, 5)))
    assert sum(frames) == 100 + vocos.delay


def test_bandwidth_ids() -> None:
    vocos = VocosONNX(DATA / "encodec.onnx")
    tokens = random_input(vocos, 40)
    features = vocos.codes_to_features(tokens)[0]
    for bandwidth_id in (0, 1):
        expected = vocos.decode(tokens, bandwidth_id)
        check(streamed(vocos, tokens, [10, 40], bandwidth_id=bandwidth_id), expected, vocos)
        check(streamed(vocos, features, [10, 40], bandwidth_id=bandwidth_id), expected, vocos)
    check(streamed(vocos, tokens, [10, 40]), vocos.decode(tokens), vocos)


def test_less_lookahead_is_earlier_and_less_exact() -> None:
    vocos = VocosONNX(DATA / "encodec.onnx")
    tokens = random_input(vocos, 200)
    expected = vocos.decode(tokens)
    errors = []
    for lookahead in range(vocos.delay + 1):
        stream = vocos.stream(lookahead=lookahead)
        parts = [stream.push(tokens[:, i : i + 4]) for i in range(0, 200, 4)]
        first = next(i for i, part in enumerate(parts) if part.size)
        # the samples of a frame that later frames overlap have to wait for those
        late = lookahead * vocos.hop_length + (vocos.config.n_fft - vocos.hop_length) // 2
        assert first == late // (4 * vocos.hop_length)
        audio = np.concatenate([*parts, stream.flush()])
        assert audio.shape == expected.shape
        errors.append(np.sqrt(np.mean((audio - expected) ** 2) / np.mean(expected**2)))
    assert errors[0] > 1e-2
    assert errors[-1] < 1e-6
    assert all(later <= earlier for earlier, later in pairwise(errors))


@pytest.mark.parametrize("batch", [1, 3])
def test_long_input_goes_in_blocks(vocos: VocosONNX, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = np.stack([random_input(vocos, 500, seed) for seed in range(batch)])
    given = given.transpose(1, 0, 2) if vocos.config.encodec else given
    expected = vocos.decode(given)
    for block in (1, 64, 499):
        monkeypatch.setattr("vocos_onnx.spans.LONGEST", block)
        monkeypatch.setattr("vocos_onnx.streams.LONGEST", block)
        check(vocos.decode(given), expected, vocos)


def test_a_list_is_decoded_as_each_alone(vocos: VocosONNX) -> None:
    items = [random_input(vocos, frames, frames) for frames in (5, 100, 1, 30)]
    expected = [vocos.decode(item) for item in items]
    for decoded in (vocos.decode(items), vocos.decode(tuple(items)), decode_together(vocos, items)):
        assert isinstance(decoded, list)
        for given, alone in zip(decoded, expected, strict=True):
            assert given.shape == alone.shape
            assert not alone.size or np.abs(given - alone).max() <= 1e-6 * max(1, np.abs(alone).max())


def test_items_of_a_list_may_have_different_bandwidths() -> None:
    vocos = VocosONNX(DATA / "encodec.onnx")
    items = [random_input(vocos, 20)[:1], random_input(vocos, 30), random_input(vocos, 10)[:1]]
    for decoded in (vocos.decode(items), decode_together(vocos, items)):
        for given, item in zip(decoded, items, strict=True):
            assert np.abs(given - vocos.decode(item)).max() <= 1e-6


def test_batches_of_a_device_are_bounded() -> None:
    """Batches are bounded for any number of items, and long items do not pad many short ones to their length."""
    features = [np.zeros((1, 8, length), np.float32) for length in (*[10] * 3000, 1500, 700, 10)]
    items = [Frames(item, None, i % 2, is_batch=False) for i, item in enumerate(features)]
    seen = []
    for batch in Plan(21, None, together=True).work(items).batches:
        stack, lengths = stacked(batch)
        assert len({span.frames.bandwidth_id for span in batch}) == 1
        assert len(stack) * stack.shape[2] <= MOST
        filled = sum(lengths) if lengths else len(stack) * stack.shape[2]
        assert filled > 0.3 * len(stack) * stack.shape[2]
        seen += [span.item for span in batch]
    assert sorted(seen) == list(range(len(items)))


def test_a_list_in_the_graph_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU gets the list as one batch, and padding does not affect any item."""
    vocos, plain = VocosONNX(DATA / "mel-istft.onnx"), VocosONNX(DATA / "mel.onnx")
    items = [random_input(vocos, frames, frames) for frames in NASTY]
    expected = plain.decode(items)
    vocos._plan = Plan(vocos._plan.reach, None, together=True)
    calls = []
    audio = vocos.network.audio

    def counted(features: Any, *args: Any, **options: Any) -> Any:
        calls.append(features.shape)
        return audio(features, *args, **options)

    monkeypatch.setattr(vocos.network, "audio", counted)
    for given, alone in zip(vocos.decode(items), expected, strict=True):
        check(given, alone, vocos)
    assert calls == [(len(NASTY), 8, 1000)]
    # a long item goes alone, in blocks, since it would pad the whole batch to its length
    monkeypatch.setattr("vocos_onnx.spans.LONGEST", 999)
    for given, alone in zip(vocos.decode(items), expected, strict=True):
        check(given, alone, vocos)
    assert calls[1:] == [(len(NASTY) - 1, 8, 55)]


def test_the_state_of_a_stream_stays_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the CPU in place of a GPU, the state stays on the device between calls, and the audio is the same."""
    for name in ("encodec", "mel"):
        vocos = VocosONNX(DATA / f"{name}.onnx")
        given = random_input(vocos, 300)
        ends = cuts(300, np.random.default_rng(0))
        expected, early = streamed(vocos, given, ends), streamed(vocos, given, ends, lookahead=1)
        long = random_input(vocos, 4000)
        whole = vocos.decode(long)
        assert vocos.network._session._device is None
        monkeypatch.setattr(vocos.network._session, "_device", ("cpu", 0))
        kinds: set[str] = set()
        step = vocos.network.step

        def watched(*args: Any, step: Any = step, kinds: Any = kinds) -> Any:
            spectrum, state = step(*args)
            kinds.update(type(value).__name__ for value in state.values())
            return spectrum, state

        monkeypatch.setattr(vocos.network, "step", watched)
        assert np.array_equal(streamed(vocos, given, ends), expected)
        assert np.array_equal(streamed(vocos, given, ends, lookahead=1), early)
        assert np.array_equal(vocos.decode(long), whole)
        assert kinds == {"OrtValue"}


@pytest.mark.parametrize("device", [None, ("cpu", 0)])
def test_what_fails_in_the_network_says_so(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a device, where onnxruntime raises other exceptions."""
    vocos = VocosONNX(DATA / "encodec.onnx")
    monkeypatch.setattr(vocos.network._session, "_device", device)
    inputs = vocos.network._inputs
    monkeypatch.setattr(vocos.network, "_inputs", lambda f, i, state, mask: inputs(f, i, state, mask[:, :, 1:]))
    with pytest.raises(RuntimeError, match=r"onnxruntime failed in the network: .*The model file may be damaged"):
        vocos.stream().push(random_input(vocos, 10))


@pytest.mark.parametrize(
    "text", ["std::bad_alloc", "Error in execution:\nFailed to allocate memory for requested buffer"]
)
def test_no_memory_on_a_device(text: str) -> None:
    class Full:
        def io_binding(self) -> Never:
            raise RuntimeError(text)

    session = VocosONNX(DATA / "mel.onnx", threads=1).network._session
    session._sessions[STEP, 1], session._device = Full(), (CUDA, 0)
    with pytest.raises(MemoryError, match=r"onnxruntime: "):
        session.run({"spectrum": (1,)}, {}, keep=True)


def one_after_another(frames: np.ndarray, padding: str) -> np.ndarray:
    """Frames (B, T, hop) without overlap -> audio; "center" padding trims half a frame at both ends."""
    trim = frames.shape[2] // 2 if padding == "center" else 0
    audio = frames.reshape(len(frames), -1)
    return audio[:, trim : audio.shape[1] - trim]


@pytest.mark.parametrize(
    ("head", "n_fft", "hop"),
    [
        ("istft", 64, 16), ("istft", 1000, 300), ("istft", 512, 400), ("imdct_cos", 32, 16),
        ("wavenext", 256, 256), ("wavenext", 15, 15), ("wavenext", 1, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("padding", ["same", "center"])
def test_overlap_add_in_stretches(head: str, n_fft: int, hop: int, padding: str) -> None:
    """Hops may not divide the frame, or exceed half of it; then the end also trims earlier frames."""
    rng = np.random.default_rng(0)
    spectrum: Any
    for frames in (1, 2, 3, 20):
        if head == "istft":
            shape = (2, frames, n_fft // 2 + 1)
            spectrum = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
            expected = istft(spectrum, n_fft, hop, padding)
        else:
            spectrum = rng.standard_normal((2, frames, hop)).astype(np.float32)
            expected = imdct(spectrum, padding) if head == "imdct_cos" else one_after_another(spectrum, padding)
        for size in (1, 3, 20):
            transforms: dict[str, Transform] = {"istft": ISTFT(n_fft), "imdct_cos": IMDCT(), "wavenext": Samples()}
            transform = transforms[head]
            overlap = OverlapAdd(transform, n_fft, hop, padding)
            parts = [overlap.push(spectrum[:, i : i + size]) for i in range(0, frames, size)]
            emitted = np.cumsum([part.shape[1] for part in parts])
            pushed = np.minimum(np.arange(1, len(parts) + 1) * size, frames)
            assert np.array_equal(emitted, np.maximum(0, pushed * hop - overlap.delay))
            audio = np.concatenate([*parts, overlap.finish()], axis=1)
            told = OverlapAdd(transform, n_fft, hop, padding)
            parts = [told.push(spectrum[:, i : i + size], last=i + size >= frames) for i in range(0, frames, size)]
            assert np.array_equal(np.concatenate(parts, axis=1), audio)
            assert audio.shape == expected.shape
            assert not expected.size or np.abs(audio - expected).max() <= 1e-5 * np.abs(expected).max()


def test_samples_with_center_padding(tmp_path: Path) -> None:
    """Audio is half a frame shorter at both ends, in whole decodes, streams with any chunks, and pooled streams."""
    old, new = b'"padding": "same", "clip_audio": true', b'"padding":"center","clip_audio": true'
    path = altered(tmp_path, old, new, "wavenext")
    same, center = VocosONNX(DATA / "wavenext.onnx"), VocosONNX(path)
    assert (center.config.padding, center.hop_length) == ("center", 16)
    rng = np.random.default_rng(0)
    pool = center.stream_pool(max_streams=8)
    for frames in (1, 2, 3, 9, 10, 40, 700):
        given = random_input(center, frames)
        expected = same.decode(given)[8 : frames * 16 - 8]
        assert np.array_equal(center.decode(given), expected)
        assert center.decode(np.stack([given] * 3)).shape == (3, (frames - 1) * 16)
        for _ in range(3):
            ends = cuts(frames, rng)
            check(streamed(center, given, ends), expected, center)
            check(streamed(center, given, ends, lookahead=9), expected, center)
            stream, parts = pool.open(), []
            for count, chunk in zip(ends, np.split(given, ends[:-1], axis=1), strict=True):
                parts.append(stream.push(chunk))
                assert sum(map(len, parts)) == max(0, count * 16 - stream.delay_samples)
            check(np.concatenate([*parts, stream.flush()]), expected, center)
            stream.close()
    pool.close()


# bad input


def test_a_network_of_unknown_reach_is_not_streamed() -> None:
    """A file of format 5 with a VocosResNetBackbone does not say how far its network sees."""
    vocos = VocosONNX(DATA / "format-5" / "imdct-cos.onnx")
    assert vocos.delay == 0
    with pytest.raises(
        ValueError, match=r"cannot be streamed, since how far its network sees is not known: use decode"
    ):
        vocos.stream()
    given = random_input(vocos, 30)
    (alone,) = vocos.decode([given])
    assert np.array_equal(alone, vocos.decode(given))


def test_a_stream_refuses_what_follows_an_error() -> None:
    """A missing chunk would shift all later audio, so after any error a stream rejects calls until reset()."""
    vocos = VocosONNX(DATA / "encodec.onnx")
    tokens = random_input(vocos, 20)
    features = vocos.codes_to_features(tokens)[0]
    expected = streamed(vocos, tokens, [9, 20])
    stream = vocos.stream()
    for chunk, message in (
        (tokens[:1], r"this chunk is tokens of 1 codebook, and those before it were tokens of 2 codebooks"),
        (
            tokens[:, None],
            r"a chunk has shape \(2, 1, 20\), expected tokens \(K, t\) or features \(C, t\); pass chunk\[:, 0\]$",
        ),
        (tokens[:, 0], r"a chunk has shape \(2,\), expected .*; of one frame pass chunk\[:, None\]"),
        (tokens[None], r"a chunk has shape \(1, 2, 20\), expected .*; pass chunk\[0\]"),
        (tokens + 1024, r"expected 0 to 1023"),
        (tokens[:0], r"tokens are empty"),
        (features, r"bandwidth_id is missing"),
        (tokens.astype(bool), r"dtype bool, expected integers"),
        ("tokens.npz", r"the path 'tokens.npz' is given"),
        (None, r"tokens or features: None is given, expected an array"),
    ):
        stream.push(tokens[:, :9])
        with pytest.raises(ValueError, match=message):
            stream.push(chunk)  # type: ignore[arg-type]
        for call in (lambda: stream.push(tokens), lambda: list(stream.push_blocks(tokens)), stream.flush):
            with pytest.raises(ValueError, match=r"stopped at an earlier error \(ValueError: .*call reset\(\)"):
                call()
        stream.reset()
        audio = [stream.push(tokens[:, :9]), stream.push(tokens[:, 9:]), stream.flush()]
        assert np.array_equal(np.concatenate(audio), expected)
        stream.reset()
    stream = vocos.stream(1)
    stream.push(tokens)
    with pytest.raises(ValueError, match=r"this chunk is features, and those before it were tokens of 2 codebooks"):
        stream.push(features)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, RuntimeError])
def test_errors_within_the_network(error: Any, vocos: VocosONNX, monkeypatch: pytest.MonkeyPatch) -> None:
    given = random_input(vocos, 60)
    expected = streamed(vocos, given, [20, 40, 60], lookahead=1)
    stream, step = vocos.stream(lookahead=1), vocos.network.step

    def failing(*args: Any) -> Never:
        raise error("no more")

    lasts: list[Callable[[], object]] = [lambda: stream.push(given[:, 20:40]), stream.flush]
    for last in lasts:
        stream.push(given[:, :20])
        monkeypatch.setattr(vocos.network, "step", failing)
        with pytest.raises(error):
            last()
        monkeypatch.setattr(vocos.network, "step", step)
        with pytest.raises(ValueError, match=rf"earlier error \({error.__name__}: no more\).* call reset\(\)"):
            last()
        stream.reset()
        ends = [stream.push(given[:, i : i + 20]) for i in (0, 20, 40)]
        assert np.array_equal(np.concatenate([*ends, stream.flush()]), expected)
        stream.reset()


def test_empty_chunks_give_nothing(vocos: VocosONNX) -> None:
    """They may come at the start, in the middle or at the end, and have any dtype, as from an empty queue."""
    given = random_input(vocos, 30)
    stream = vocos.stream()
    audio = [
        stream.push(chunk) for chunk in (given[:, :0], given[:, :9], np.empty((2, 0)), given[:, 9:], given[:, 30:])
    ]
    assert [audio[i].shape for i in (0, 2, 4)] == [(0,)] * 3
    assert np.array_equal(np.concatenate([*audio, stream.flush()]), streamed(vocos, given, [9, 30]))
    chunks = [given[:, :0], given, given[:, :0]]
    check(np.concatenate(list(vocos.decode_stream(chunks))), vocos.decode(given), vocos)
    stream.reset()
    assert list(stream.push_blocks(given[:, :0]))[0:] == []
    assert stream.flush().shape == (0,)


def test_reset_is_a_new_stream(vocos: VocosONNX) -> None:
    """After a flush, mid-stream, before any chunk, or twice, reset gives the same bits with the same settings."""
    given, other = random_input(vocos, 50), random_input(vocos, 70, seed=1)
    each: tuple[dict[str, Any], ...] = ({}, {"lookahead": 2})
    for options in each:
        expected = streamed(vocos, given, [7, 50], **options)
        stream = vocos.stream(**options)
        stream.reset()
        for _ in range(2):
            audio = [stream.push(given[:, :7]), stream.push(given[:, 7:]), stream.flush()]
            assert np.array_equal(np.concatenate(audio), expected)
            stream.reset()
            stream.push(other)
            stream.reset()
            stream.reset()


def test_another_kind_after_the_reset(encodec: VocosONNX) -> None:
    tokens = random_input(encodec, 20)
    features = encodec.codes_to_features(tokens)[0]
    stream = encodec.stream(1)
    first = np.concatenate([stream.push(tokens), stream.flush()])
    stream.reset()
    assert np.array_equal(np.concatenate([stream.push(features), stream.flush()]), first)
    stream.reset()
    assert stream.push(tokens[:1]).size


def test_after_the_flush() -> None:
    vocos = VocosONNX(DATA / "encodec.onnx")
    stream = vocos.stream()
    stream.flush()
    uses: list[Callable[[], object]] = [lambda: stream.push([[1], [2]]), stream.flush]
    for use in uses:
        with pytest.raises(ValueError, match=r"the stream has ended with flush: call reset\(\) for another sequence"):
            use()


def test_generators_end_with_an_error(encodec: VocosONNX, mel: VocosONNX) -> None:
    """After the error they yield nothing, neither from chunks after the bad one nor from the rest of the recording."""
    tokens = random_input(encodec, 40)
    bad = tokens + 1024
    given = encodec.decode_stream([tokens, bad, tokens])
    next(given)
    with pytest.raises(ValueError, match="expected 0 to 1023"):
        list(given)
    assert list(given) == []

    audio = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)

    def blocks() -> Iterator[np.ndarray]:
        yield from np.split(audio, 4)
        yield np.full(100, np.nan, np.float32)
        yield from np.split(audio, 4)

    encoder = EncodecONNX(DATA / "encoder.onnx")
    streams: dict[str, Iterator[np.ndarray]] = {
        "encode": encoder.encode_stream(blocks(), 24_000, 1.5, chunk=10),
        "features": mel.features_stream(blocks(), 8000, chunk=10),
        "mels": mel.resynth_stream(blocks(), 8000, chunk=10),
    }
    for generator in streams.values():
        assert next(generator).size
        with pytest.raises(ValueError, match="NaN"):
            list(generator)
        assert list(generator) == []


def test_one_array_for_an_iterable_of_chunks(encodec: VocosONNX) -> None:
    chunks: Any
    for chunks in (random_input(encodec, 20), np.zeros(20, np.float32), Tokens(random_input(encodec, 20))):
        with pytest.raises(ValueError, match=r"chunks is one array of shape .*pass \[array\], or use decode"):
            encodec.decode_stream(chunks)
    for chunks in (None, 5):
        with pytest.raises(ValueError, match=r"chunks is .*, expected an iterable of chunks"):
            encodec.decode_stream(chunks)
    with pytest.raises(ValueError, match=r"the path 't\.npz' is given, .*load_tokens\('t\.npz'\)"):
        encodec.decode_stream("t.npz")


def test_a_stream_is_not_pickled(encodec: VocosONNX) -> None:
    stream = encodec.stream()
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"a Stream cannot be pickled or copied: .*VocosONNX\.stream"):
            attempt(stream)


def test_two_threads_on_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    vocos = VocosONNX(DATA / "encodec.onnx")
    stream = vocos.stream()
    stream.push([[1], [2]])
    inside, go_on = threading.Event(), threading.Event()
    assert stream._decoder is not None
    push = stream._decoder.push

    def slow(features: Any) -> Any:
        inside.set()
        go_on.wait(10)
        return push(features)

    monkeypatch.setattr(stream._decoder, "push", slow)
    thread = threading.Thread(target=stream.push, args=([[1], [2]],))
    thread.start()
    inside.wait(10)
    for call in (lambda: stream.push([[1], [2]]), stream.flush, stream.reset):
        with pytest.raises(
            RuntimeError, match=r"^two threads use one stream at the same time: give each a stream of its"
        ):
            call()
    go_on.set()
    thread.join()
    stream.push([[1], [2]])


@pytest.mark.parametrize("lookahead", [-1, 10, 1.5, True, "3"])
def test_bad_lookahead(lookahead: Any) -> None:
    with pytest.raises(ValueError, match=r"lookahead is .*(expected 0 to 9|expected an integer): frames"):
        VocosONNX(DATA / "encodec.onnx").stream(lookahead=lookahead)


def test_bad_bandwidth_id() -> None:
    with pytest.raises(ValueError, match=r"bandwidth_id is 2, expected 0 to 1"):
        VocosONNX(DATA / "encodec.onnx").stream(2)


def test_bad_lists() -> None:
    vocos = VocosONNX(DATA / "encodec.onnx")
    tokens = random_input(vocos, 5)
    for items, message in (
        ([], r"the list is empty, expected one or more arrays"),
        ([tokens, vocos.codes_to_features(tokens)[0]], r"tokens \(integers\) and features \(floats\)"),
        ([tokens, tokens[:, None]], r"item 1 of the list has shape \(2, 1, 5\), expected \(K, T\) or \(C, T\)"),
        ([tokens, tokens + 1024], r"expected 0 to 1023"),
    ):
        with pytest.raises(ValueError, match=message):
            vocos.decode(items)


# threads

V1 = "sys/fs/cgroup/cpu"


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("0::/", {"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ("0::/a/b", {"sys/fs/cgroup/a/b/cpu.max": "150000 100000"}, 2),
        ("0::/a/b", {"sys/fs/cgroup/a/b/cpu.max": "max 100000", "sys/fs/cgroup/a/cpu.max": "50000 100000"}, 1),
        ("0::/of/the/host", {"sys/fs/cgroup/cpu.max": "100000 100000"}, 1),
        ("3:cpu,cpuacct:/x", {f"{V1}/x/cpu.cfs_quota_us": "100000", f"{V1}/x/cpu.cfs_period_us": "100000"}, 1),
        ("3:cpu:/", {f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "100000"}, None),
        ("3:memory:/", {}, None),
    ],
)  # fmt: skip
def test_threads_are_the_cpus_that_the_process_may_use(
    group: str, files: Any, quota: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)), raising=False)
    for name, text in {"proc/self/cgroup": group + "\n", **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert available_cpus(tmp_path) == (quota or 4)
    assert available_cpus(Path(tmp_path / "nothing")) == 4


def test_a_chunk_that_is_given_up_ends_the_stream(encodec: VocosONNX) -> None:
    """Abandoning its blocks stops the stream, since later audio would be shifted in time."""
    stream, tokens = encodec.stream(), np.zeros((2, 4000), int)
    expected = stream.push(tokens)
    stream.reset()
    blocks = stream.push_blocks(tokens)
    next(blocks)
    assert isinstance(blocks, Generator)
    blocks.close()
    calls: list[Callable[[], object]] = [lambda: stream.push(tokens), stream.flush]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"a chunk was not decoded to its end: push_blocks was given up.*reset\(\)"
        ):
            call()
    stream.reset()
    blocks = stream.push_blocks(tokens)
    next(blocks)
    with pytest.raises(RuntimeError, match=r"^an iterator of push_blocks is not at its end: .*or call reset\(\)$"):
        stream.push(tokens)
    stream.reset()
    assert list(blocks) == []
    assert np.array_equal(stream.push(tokens), expected)


def test_blocks_that_were_never_begun_are_missed(encodec: VocosONNX) -> None:
    """An iterator of push_blocks holds its place in the sequence, even if it is never started."""
    tokens = random_input(encodec, 60)
    expected = streamed(encodec, tokens, [30, 60])
    stream = encodec.stream()
    for use in (lambda: stream.push(tokens), stream.flush, lambda: stream.push_blocks(tokens)):
        blocks = stream.push_blocks(tokens[:, :30])
        with pytest.raises(RuntimeError, match=r"an iterator of push_blocks is not at its end"):
            use()
        audio = [*blocks, *stream.push_blocks(tokens[:, 30:]), stream.flush()]
        assert np.array_equal(np.concatenate(audio), expected)
        stream.reset()
        stream.push_blocks(tokens)  # dropped at once
        with pytest.raises(ValueError, match=r"push_blocks was given up"):
            use()
        stream.reset()
    with pytest.raises(ValueError, match="expected 0 to 1023"):
        stream.push_blocks(tokens + 1024)  # raised by the call itself


def test_blocks_in_memory_that_is_used_again(encodec: VocosONNX, mel: VocosONNX) -> None:
    """A generator may reuse one array for all blocks, as soundfile's blocks(out=...) does."""
    audio = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)

    def blocks(size: int = 1000) -> Iterator[np.ndarray]:
        memory = np.empty(size, np.float32)
        for start in range(0, len(audio), size):
            memory[:] = audio[start : start + size]
            yield memory
        memory[:] = np.nan

    encoder = EncodecONNX(DATA / "encoder.onnx")
    codes = np.concatenate(list(encoder.encode_stream(blocks(), 24_000, 1.5)), axis=1)
    assert np.array_equal(codes, encoder.encode(audio, 24_000, 1.5))
    features = np.concatenate(list(mel.features_stream(blocks(), 8000)), axis=1)
    np.testing.assert_allclose(features, mel.features(audio, 8000), rtol=0, atol=1e-5)
    copy = np.concatenate(list(mel.resynth_stream(blocks(), 8000)))
    np.testing.assert_allclose(copy, mel(audio, 8000), rtol=0, atol=1e-4)
