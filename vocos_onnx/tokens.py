"""Token files: .npz archives that say whose tokens they hold, and what others write."""

from __future__ import annotations

import operator
import os
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from .config import EncodecFeatures, EncoderConfig, ModelConfig
from .files import check_target, whole_file
from .messages import listed, shown

_LONGEST = 200  # characters of a name in a file that are looked at
_SMALL = 4096  # bytes of an entry of one value
_FREE, _RATIO = 64 << 20, 200  # bytes that an array may unpack to, and beyond that how many times its size in the file
_warned = False


class Tokenizer(Protocol):
    """What knows whose tokens they are: an ``EncodecONNX`` that made them, or a ``VocosONNX`` that decodes them."""

    @property
    def config(self) -> EncoderConfig | ModelConfig: ...


@dataclass(frozen=True)
class Tokens:
    """What a token file holds. ``VocosONNX.decode`` takes it as it is, and checks that the codec is its own.

    codes: the array of the file; of ``vocos-onnx encode`` integers (K, T): K codebooks, T frames.
    samples: of the recording that they were made from, at ``sample_rate`` in Hz; None where the file does not say it.
    codec: name of the codec whose tokens they are, and codebooks_sha256 the fingerprint of its codebooks: the sha256 of
        the first K of them (K, codebook_size, channels), little-endian float32. None where the file does not say it.

    ``numpy.asarray(tokens)`` is the codes alone.
    """

    codes: npt.NDArray[Any]
    samples: int | None = None
    sample_rate: int | None = None
    codec: str | None = None
    codebooks_sha256: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", np.asarray(self.codes))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.codes, dtype, copy=copy)

    @property
    def anonymous(self) -> bool:
        """Whether they are tokens, and nothing says of which codec."""
        return self.codec is None and self.codebooks_sha256 is None and self.codes.dtype.kind in "iu"


def load_tokens(path: str | os.PathLike[str] | IO[bytes]) -> Tokens:
    """Read a .npy file, or of a .npz file the array named tokens or codes, or its only one. Pickles are never loaded.

    A .npz file of ``save_tokens`` or ``vocos-onnx encode`` names its codec, too. The tokens of a file that does not are
    taken for those of the model that decodes them, of which there is one warning in a process.

    Args:
        path: of the file, or a binary file object that can seek.

    Returns:
        ``Tokens``, for ``VocosONNX.decode``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another kind, damaged, or holds Python objects.

    Example:
        >>> vocos.decode(load_tokens("speech.npz"))  # ValueError where they are of another codec than the model's
    """
    global _warned
    tokens = read_token_file(path)
    if tokens.anonymous and not _warned:
        _warned = True
        warnings.warn(
            f"{_name(path)} names no codec: its tokens are taken for those of the model that decodes them; those of "
            "another codec (Bark, VALL-E and the like have EnCodec's) come out as noise. save_tokens names the codec",
            stacklevel=2,
        )
    return tokens


def save_tokens(
    path: str | os.PathLike[str],
    tokens: npt.ArrayLike | Tokens,
    codec: Tokenizer | None = None,
    *,
    samples: int | None = None,
    overwrite: bool = True,
) -> None:
    """Write tokens to an .npz file, with the codec whose they are. The file appears whole or not at all.

    Args:
        path: ends in .npz.
        tokens: integers (K, T), or ``Tokens``, which know their codec.
        codec: the ``EncodecONNX`` that made them, or a ``VocosONNX`` that decodes them. Without it, and of a plain
            array, the file names no codec.
        samples: of the recording, at the codec's sample rate, so that ``vocos-onnx decode`` gives as many.
        overwrite: whether a file that exists is replaced.

    Raises:
        ValueError: another ending; tokens that are not integers (K, T), or that the codec cannot have made; a mel
            model, which has no tokens; ``samples`` that are no number of them.
        FileExistsError: the file exists, and ``overwrite`` is false.
        OSError: the file cannot be written.

    Example:
        >>> save_tokens("speech.npz", encoder.encode(audio, rate), encoder)
    """
    path = Path(path)
    if path.suffix.lower() != ".npz":
        raise ValueError(f"{path.name!r} does not end in .npz, the kind of file that tokens are written to")
    check_target(path, overwrite=overwrite)
    given = tokens if isinstance(tokens, Tokens) else Tokens(np.asarray(tokens))
    codes = given.codes
    if codes.dtype.kind not in "iu" or codes.ndim != 2 or not codes.size:
        raise ValueError(
            f"tokens have dtype {codes.dtype} and shape {codes.shape}, expected integers (codebooks, frames)"
        )
    if codec is not None:
        given = _named(codes, codec.config, given.samples)
    samples = given.samples if samples is None else samples
    if samples is not None and (not isinstance(samples, int | np.integer) or not 0 <= samples < 1 << 62):
        raise ValueError(f"samples is {shown(samples)}, expected how many samples the recording has")
    if int(codes.max()) >= 1 << 63:
        raise ValueError(f"tokens hold the value {codes.max()}, expected less than 2**63")
    entries: dict[str, Any] = {
        "samples": samples,
        "sample_rate": given.sample_rate,
        "codec": given.codec,
        "codebooks_sha256": given.codebooks_sha256,
    }
    largest = max(int(codes.max()), -int(codes.min()) - 1)
    small = codes.astype(np.int16 if largest < 1 << 15 else np.int32 if largest < 1 << 31 else np.int64)
    with whole_file(path, overwrite=overwrite) as partial:
        np.savez_compressed(partial, tokens=small, **{k: v for k, v in entries.items() if v is not None})


def _named(codes: npt.NDArray[Any], config: EncoderConfig | ModelConfig, samples: int | None) -> Tokens:
    count = len(codes)
    if isinstance(config, EncoderConfig):
        features: EncoderConfig | EncodecFeatures = config
    elif config.encodec is None:
        raise ValueError("the codec is a mel model, which has no tokens: pass the encoder that made them")
    else:
        features = config.encodec
    if count > features.num_codebooks or int(codes.min()) < 0 or int(codes.max()) >= features.codebook_size:
        raise ValueError(
            f"tokens of {count} codebooks with values from {codes.min()} to {codes.max()} are not of the codec "
            f"{features.codec}, which has {features.num_codebooks} codebooks of 0 to {features.codebook_size - 1}"
        )
    known = features.codebooks_sha256
    digest = known if isinstance(known, str) else known[count - 1]
    return Tokens(codes, samples, config.sample_rate, features.codec, digest)


def check_codec(tokens: Tokens, config: ModelConfig, known: tuple[str, ...]) -> None:
    """Raises ValueError where the tokens are of another codec than the model's; what is not known is not checked.

    ``known`` are the fingerprints of the model's first 1, 2, ... codebooks. That of the tokens decides: of as many
    codebooks as there are rows of them, or of more, as where a model of more has named them.
    """
    if tokens.codec is None and tokens.codebooks_sha256 is None:
        return
    name = "another codec" if tokens.codec is None else tokens.codec
    if config.encodec is None:
        raise ValueError(f"these are tokens of {name}, and this is a mel model, which decodes features")
    own = config.encodec
    if tokens.codebooks_sha256 is not None:
        count = tokens.codes.shape[0] if tokens.codes.ndim else 0
        same = tokens.codebooks_sha256 in known[max(0, count - 1) :]
    else:
        same = tokens.codec == own.codec
    if not same:
        other = "" if name != own.codec else " (of that name too, but with other codebooks)"
        raise ValueError(
            f"these are tokens of {name}, and this model decodes those of {own.codec}{other}, to which they are noise: "
            "pass the model of their codec"
        )
    if tokens.sample_rate not in (None, config.sample_rate):
        raise ValueError(
            f"these are tokens of audio at {tokens.sample_rate} Hz, and this model is of {config.sample_rate} Hz: pass "
            "the model of their codec"
        )


def read_token_file(path: str | os.PathLike[str] | IO[bytes]) -> Tokens:
    """As ``load_tokens``, without its warning."""
    if isinstance(path, str | os.PathLike):
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"no token file {path}")
    try:
        if isinstance(path, Path):
            with path.open("rb") as file:
                return _read(file)
        return _read(path)
    except Exception as error:  # of damaged files numpy raises whatever its parsers do: SyntaxError, zlib.error, ...
        raise ValueError(f"cannot read {_name(path)} as .npy or .npz: {error}") from None


def _read(file: IO[bytes]) -> Tokens:
    loaded = np.load(file, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return Tokens(loaded)
    names = [n for n in ("tokens", "codes") if n in loaded.files] or loaded.files
    if len(names) != 1:
        there = listed(name if name.isprintable() else ascii(name) for name in loaded.files) or "nothing"
        raise ValueError(f"it holds arrays named {there}; name one of them tokens")

    def entry(name: str) -> Any:
        if name not in loaded.files or name == names[0]:
            return None
        if loaded.zip.getinfo(f"{name}.npy").file_size > _SMALL:  # before it is unpacked
            raise ValueError(f"its {name} takes more than {_SMALL} bytes, expected one value")
        return loaded[name].item()

    samples, rate, codec, digest = map(entry, ("samples", "sample_rate", "codec", "codebooks_sha256"))
    for name, text in (("codec", codec), ("codebooks_sha256", digest)):
        if text is not None and not (isinstance(text, str) and text.isprintable() and 0 < len(text) <= _LONGEST):
            raise ValueError(f"its {name} is {shown(text)}, expected a name of up to {_LONGEST} printable characters")
    member = loaded.zip.getinfo(names[0] if names[0] in loaded.zip.namelist() else f"{names[0]}.npy")
    most = max(_FREE, _RATIO * member.compress_size)
    if member.file_size > most or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"its {shown(names[0])} unpacks to {member.file_size} bytes, from {member.compress_size}, expected at most "
            f"{most}, stored or deflated as numpy does it"
        )
    codes = loaded[names[0]]
    if not isinstance(codes, np.ndarray):  # what numpy makes of a member that is no array
        raise ValueError(f"{shown(names[0])} in it is no array")
    return Tokens(
        codes,
        None if samples is None else operator.index(samples),
        None if rate is None else operator.index(rate),
        codec,
        digest,
    )


def _name(path: object) -> str:
    return str(path) if isinstance(path, Path | str) else "the file"
