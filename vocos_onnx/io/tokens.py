"""Token files: .npz archives that name the codec of their tokens, and the formats of other programs."""

from __future__ import annotations

import io
import operator
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import KNOWN_NAMES, as_array, type_hint, unwrapped
from vocos_onnx.limits import MAX_CODEBOOK_SIZE, MAX_CODEBOOKS
from vocos_onnx.messages import in_python, listed, reading, shown
from vocos_onnx.model.bundled import DEMO_TOKENS, default_model
from vocos_onnx.model.config import EncodecFeatures, EncoderConfig, ModelConfig
from vocos_onnx.model.registry import ENCODEC, MODEL_OF_CODEC
from vocos_onnx.once import warn_once

from .array_files import HEAD, Entry, check_kind, entries, names_and_shapes
from .files import check_target, whole_file, write_all

_ENTRIES = ("samples", "sample_rate", "codec", "codebooks_sha256")
_LONGEST = 200  # the most characters that a name in a file may have
A_NAME = f"a name of up to {_LONGEST} printable characters"
_SMALL = 4096  # the most bytes of an entry with one value
_SPOOLED, _MOST = 16 << 20, 1 << 30  # bytes of a file that cannot seek: kept in memory, and in total


_Described = tuple[int | None, int | None, str | None, str | None]  # _ENTRIES


class Tokenizer(Protocol):
    """An object that knows its codec: an ``EncodecONNX`` that made the tokens, or a ``VocosONNX`` that decodes them."""

    @property
    def config(self) -> EncoderConfig | ModelConfig: ...


@dataclass(frozen=True, eq=False)
class Tokens:
    """The contents of a token file. ``VocosONNX.decode`` takes them as they are, and checks that the codec is its own.

    Attributes:
        codes: the array of the file, without the axes of length 1 that other programs put around a recording; from
            ``vocos-onnx encode`` integers (K, T): K codebooks, T frames.
        samples: length of the recording that they were made from; None if the file does not say.
        sample_rate: sample rate of that recording, in Hz; None if the file does not say.
        codec: name of the codec of the tokens; None if the file does not say.
        codebooks_sha256: the fingerprint of its codebooks: the sha256 of the first K of them (K, codebook_size,
            channels) as little-endian float32. None if the file does not say.

    ``numpy.asarray(tokens)`` is the codes alone, ``tokens.shape`` their shape, and ``len(tokens)`` the length of their
    first axis. Two ``Tokens`` are equal if all attributes are.
    """

    codes: npt.NDArray[Any]
    samples: int | None = None
    sample_rate: int | None = None
    codec: str | None = None
    codebooks_sha256: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", as_array(unwrapped(self.codes), "tokens"))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokens):
            return NotImplemented
        return self._described() == other._described() and np.array_equal(self.codes, other.codes)

    __hash__ = None  # type: ignore[assignment]  # as for the array in it

    def __len__(self) -> int:
        return len(self.codes)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.codes, dtype, copy=copy)

    def _described(self) -> tuple[int | str | None, ...]:
        return self.samples, self.sample_rate, self.codec, self.codebooks_sha256

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the codes."""
        return self.codes.shape

    @property
    def anonymous(self) -> bool:
        """Whether they are tokens of an unknown codec."""
        return self.codec is None and self.codebooks_sha256 is None and self.codes.dtype.kind in "iu"


def load_tokens(path_or_file: str | os.PathLike[str] | IO[bytes], *, key: str | None = None) -> Tokens:
    """Read a .npy, .npz, .json or .safetensors file of tokens or features. Pickles are never loaded.

    If a file holds several arrays, reads the one that ``key`` names; without a key, the first of tokens, codes,
    fine_prompt (Bark), audio_tokens (VALL-E) and audio_codes (transformers) that is there, else the only array. A file
    holds one recording: axes of length 1 are dropped from tokens (1, K, T), (K, 1, T) and (1, 1, K, T) and from
    features (1, C, T). A larger batch stays as it is, and ``decode`` takes it with its ``layout``.

    A .npz file from ``save_tokens`` or ``vocos-onnx encode`` also names its codec. If a file does not, its tokens are
    assumed to be of the codec of the model that decodes them; one warning per process says so.

    Args:
        path_or_file: a path, or a binary file object, which is read from its current position and need not be seekable.
        key: name of the array in a .npz, .safetensors or .json file.

    Returns:
        ``Tokens``, for ``VocosONNX.decode``.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it cannot be opened.
        ValueError: if it is of another kind, is damaged, or holds Python objects; has no array named ``key``, or
            several arrays with none of the names above; or holds tokens (T, K), or tokens of several chunks from
            transformers. The message gives the remedy.

    Example:
        >>> vocos.decode(load_tokens("speech.npz"))  # ValueError where they are of another codec than the model's
    """
    tokens = read_token_file(path_or_file, key)
    if tokens.anonymous:
        warn_once("codec", of_no_codec(_name(path_or_file)))
    return tokens


def cut_codebooks(tokens: Tokens, count: int, most: int) -> Tokens:
    """Returns the first ``count`` codebooks of tokens (K, T), for a model that has ``most`` codebooks.

    A fingerprint of more codebooks than the model has cannot be compared, and is dropped; the codec's name stays.
    """
    digest = tokens.codebooks_sha256 if len(tokens.codes) <= most else None
    return replace(tokens, codes=tokens.codes[:count], codebooks_sha256=digest)


def check_not_empty(tokens: Tokens, file: str) -> None:
    """Raises ValueError if a file to be decoded holds no frames."""
    if not tokens.codes.size:
        what = "features" if tokens.codes.dtype.kind == "f" else "tokens"
        raise ValueError(
            f"{file}: the array of {what} is empty, shape {tokens.codes.shape}; expected at least one frame"
        )


def of_no_codec(file: str, codec: str | None = None) -> str:
    """The warning about a file that does not name the codec of its tokens; ``codec`` is the model's, if known."""
    if codec is None:
        return (
            f"{file} names no codec, so decode cannot check that the model fits its tokens; "
            "Tokens(codes, codec='encodec_24khz') names EnCodec's"
        )
    decoded = f"{file} names no codec, and is decoded as tokens of {codec}"
    if codec == "encodec_24khz":
        return decoded
    return f"{decoded}; if they are EnCodec's (Bark, VALL-E and the like), decode them with the model {ENCODEC}"


def save_tokens(
    path: str | os.PathLike[str] | IO[bytes],
    tokens: npt.ArrayLike | Tokens,
    codec: Tokenizer | None = None,
    *,
    samples: int | None = None,
    overwrite: bool = True,
) -> None:
    """Write tokens and the name of their codec to an .npz file. The file is written atomically.

    Args:
        path: a path that ends in .npz, or a binary file object, which is written at its current position and need not
            be seekable.
        tokens: integers (K, T), or ``Tokens``, which know their codec.
        codec: the ``EncodecONNX`` that made them, or a ``VocosONNX`` that decodes them. Without it, a plain array is
            written without the name of a codec.
        samples: length of the recording at the codec's sample rate, so ``vocos-onnx decode`` returns exactly as many.
        overwrite: whether to replace an existing file.

    Raises:
        ValueError: if the extension is another one; if the tokens are not integers (K, T), cannot come from the codec,
            or name another codec; if the codec is a mel model, which has no tokens, or not a codec at all; or if
            ``samples`` is not a valid count or does not match the number of frames.
        FileExistsError: if the file exists and ``overwrite`` is false.
        OSError: if the file cannot be written.

    Example:
        >>> save_tokens("speech.npz", encoder.encode(audio, rate), encoder)
    """
    file = _target(path, tokens, overwrite)
    given = tokens if isinstance(tokens, Tokens) else Tokens(tokens)  # type: ignore[arg-type]
    codes = given.codes
    if not codes.size:
        raise ValueError(f"tokens are empty, shape {codes.shape}; expected at least one codebook and one frame")
    if codes.dtype.kind not in "iu" or codes.ndim != 2:
        hint = type_hint(codes, MAX_CODEBOOK_SIZE) if codes.dtype.kind not in "iu" else ""
        if not hint and codes.ndim == 3 and 1 in codes.shape[:2]:
            hint = f"; pass tokens[{'0' if codes.shape[0] == 1 else ':, 0'}]"
        raise ValueError(
            f"tokens have dtype {listed([codes.dtype])} and shape {codes.shape}, expected integers (codebooks, frames)"
            f"{hint}"
        )
    if codec is not None:
        given = _named(given, codec)
    remedy = "leave it out" if samples is not None else "pass dataclasses.replace(tokens, samples=None)"
    samples = given.samples if samples is None else samples
    described = _check_entries(samples, given.sample_rate, given.codec, given.codebooks_sha256)
    _check_length(described[0], codes.shape[1], None if codec is None else codec.config.hop_length, remedy)
    if int(codes.max()) >= 1 << 63:
        raise ValueError(f"tokens hold the value {codes.max()}, expected less than 2**63")
    largest = max(int(codes.max()), -int(codes.min()) - 1)
    small = codes.astype(np.int16 if largest < 1 << 15 else np.int32 if largest < 1 << 31 else np.int64)
    content = io.BytesIO()  # numpy would add .npz to a name that ends in .NPZ
    np.savez_compressed(
        content,
        tokens=small,
        **{name: value for name, value in zip(_ENTRIES, described, strict=True) if value is not None},  # type: ignore[arg-type]
    )
    if not isinstance(file, Path):
        write_all(file, content.getvalue())
        return
    with whole_file(file, overwrite=overwrite) as partial:
        partial.write_bytes(content.getvalue())


def _target(given: Any, tokens: Any, overwrite: bool) -> Path | IO[bytes]:
    """Returns the path or file object to write to, after checking that it can be written."""
    if isinstance(given, io.TextIOBase):
        raise ValueError('the file was opened as text: open it with open(path, "wb")')
    if hasattr(given, "write"):
        file: IO[bytes] = given
        return file
    if not isinstance(given, str | os.PathLike):
        swapped = isinstance(tokens, str | os.PathLike)
        what = f"a {type(given).__name__}" if hasattr(given, "__array__") else shown(given)
        raise ValueError(
            f"path is {what}, expected a path that ends in .npz, or a binary file object"
            + ("; path and tokens are swapped: pass the path first" if swapped else "")
        )
    path = Path(given)
    if path.suffix.lower() != ".npz":
        name = path.name or os.fspath(given)
        raise ValueError(f"{name!r} does not end in .npz, the kind of file that tokens are written to")
    check_target(path, overwrite=overwrite)
    return path


def _check_length(samples: int | None, frames: int, hop: int | None, remedy: str) -> None:
    """Raises ValueError if that number of samples does not match the number of frames."""
    if samples is None or (-(-samples // hop) == frames if hop else samples >= frames):
        return
    expected = f"{(frames - 1) * hop + 1} to {frames * hop}" if hop else f"{frames} or more"
    raise ValueError(
        f"samples is {samples}, but {frames} frames are of {expected} samples: pass the number of samples that the "
        f"recording has at the codec's sample rate, or {remedy}"
    )


def is_name(text: Any) -> bool:
    """Whether the text is valid as the name of a codec or the fingerprint of its codebooks."""
    return isinstance(text, str) and text.isprintable() and 0 < len(text) <= _LONGEST


def _check_entries(samples: Any, sample_rate: Any, codec: Any, digest: Any) -> _Described:
    """Checks what a file says about its tokens. Returns it with integers as Python ints."""
    for name, text in (("codec", codec), ("codebooks_sha256", digest)):
        if text is not None and not is_name(text):
            raise ValueError(f"{name} is {shown(text)}, expected {A_NAME}")
    return (
        _count("samples", samples, 0, "how many samples the recording has"),
        _count("sample_rate", sample_rate, 1, "a number of Hz"),
        codec,
        digest,
    )


def _count(name: str, given: Any, least: int, meaning: str) -> int | None:
    if given is None:
        return None
    try:
        value = -1 if isinstance(given, bool | np.bool_) else operator.index(given)
    except TypeError:  # numpy's timedelta64 too, whose class is an integer's
        value = -1
    if not least <= value < 1 << 62:
        raise ValueError(f"{name} is {shown(given)}, expected {meaning}")
    return value


def _named(given: Tokens, codec: Any) -> Tokens:
    """Returns the tokens with the details of their codec. Raises ValueError if they cannot be from that codec."""
    config, codes, count = getattr(codec, "config", None), given.codes, len(given.codes)
    if isinstance(codec, type) or not isinstance(config, EncoderConfig | ModelConfig):
        raise ValueError(
            f"codec is {shown(codec)}, expected the EncodecONNX that made the tokens or a VocosONNX that decodes them"
            + (f": pass an object, such as {codec.__name__}()" if isinstance(codec, type) else "")
        )
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
    if isinstance(config, ModelConfig):
        codec.codes_to_features(replace(given, codes=codes[:, :1]))  # raises if they are of another codec
        same = True
    elif given.codebooks_sha256 is not None:  # the fingerprint takes precedence
        same = given.codebooks_sha256 in config.codebooks_sha256[count - 1 :]
    else:
        same = given.codec in (None, config.codec)
    if not same or given.sample_rate not in (None, config.sample_rate):
        other = " with other codebooks" if given.codec == features.codec and not same else ""
        name = "another codec" if given.codec is None else listed([given.codec])
        rate = f" at {shown(given.sample_rate)} Hz" if given.sample_rate is not None else ""
        raise ValueError(
            f"these are tokens of {name}{other}{rate}, and the codec that is given is {features.codec} at "
            f"{config.sample_rate} Hz: leave the codec out, for the tokens know theirs, or pass that which made them"
        )
    digest = given.codebooks_sha256 or (known if isinstance(known, str) else known[count - 1])
    return Tokens(codes, given.samples, config.sample_rate, features.codec, digest)


def check_codec(tokens: Tokens, config: ModelConfig, known: tuple[str, ...]) -> None:
    """Raises ValueError if the tokens are of another codec than the model's; what is unknown is not checked.

    ``known`` are the fingerprints of the model's first 1, 2, ... codebooks. The fingerprint of the tokens takes
    precedence over the name; it may cover as many codebooks as the tokens have, or more, if a model with more has
    written it.
    """
    if tokens.codec is None and tokens.codebooks_sha256 is None:
        return
    name = "another codec" if tokens.codec is None else listed([tokens.codec])
    own = config.encodec
    remedy = "pass the model of their codec"
    if own is None or own.codec != tokens.codec:
        decodes = MODEL_OF_CODEC.get(tokens.codec or "")
        remedy += "" if decodes is None else f", VocosONNX({decodes!r})"
    if own is None:
        raise ValueError(f"these are tokens of {name}, and this is a mel model, which decodes features: {remedy}")
    count = min(tokens.codes.shape[:-1], default=0)  # for (K, T), (K, B, T) or (B, K, T)
    if tokens.codebooks_sha256 is None or count > len(known):  # a fingerprint of more codebooks cannot be compared
        same = tokens.codec == own.codec
    else:
        same = tokens.codebooks_sha256 in known[max(0, count - 1) :]
    if not same:
        other = "" if tokens.codec != own.codec else " (of that name too, but with other codebooks)"
        raise ValueError(
            f"these are tokens of {name}, and this model decodes those of {own.codec}{other}, to which they are noise: "
            f"{remedy}"
        )
    if tokens.sample_rate not in (None, config.sample_rate):
        raise ValueError(
            f"these are tokens of audio at {shown(tokens.sample_rate)} Hz, and this model is of {config.sample_rate} "
            f"Hz: {remedy}"
        )


def read_token_file(path_or_file: str | os.PathLike[str] | IO[bytes], key: str | None = None) -> Tokens:
    """Like ``load_tokens``, without its warning."""
    with _opened(path_or_file) as (file, name):
        try:
            array, chosen, described = _read(file, name, key)
        except MemoryError:
            raise
        except Exception as error:  # on a damaged archive zipfile raises whatever its parsers raise: zlib.error, ...
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ValueError(f"cannot read {_name(path_or_file)}: {reason}") from None
    return Tokens(_unwrapped(array, _name(path_or_file), name, chosen), *described)


@contextmanager
def _opened(given: str | os.PathLike[str] | IO[bytes]) -> Iterator[tuple[IO[bytes], str]]:
    """Gives the file, seekable and at its start, and its name. Copies it if it cannot seek or is not at its start."""
    with ExitStack() as stack:
        if isinstance(given, str | os.PathLike):
            if given == "":
                raise ValueError("load_tokens was given '', expected the path of a token file")
            path = Path(given)
            with reading(path):
                if path.is_dir():
                    raise ValueError(
                        f"cannot read {path}: it is a folder; expected a token file, such as one that is in it"
                    )
                if not path.exists():
                    if "://" in os.fspath(given):
                        raise FileNotFoundError(f"no token file {given}: a URL is not opened; download the file first")
                    raise FileNotFoundError(f"no token file {path}")
                file: IO[bytes] = stack.enter_context(path.open("rb"))
            name = str(path)
        elif isinstance(given, io.TextIOBase):
            raise ValueError('the token file was opened as text: open it with open(path, "rb")')
        elif hasattr(given, "read"):
            file, name = given, ""
        elif isinstance(given, bytes | bytearray | memoryview):
            raise ValueError("load_tokens was given bytes: pass io.BytesIO(data) of a file's content, or a path as str")
        else:
            raise ValueError(
                f"load_tokens was given {shown(given)}, expected the path of a token file, or a binary file object; "
                "arrays need no loading: decode takes them"
            )
        if not file.seekable() or file.tell():
            if file.seekable() and _at_end(file):
                raise ValueError(
                    f"cannot read the file object: it is at its end, after {file.tell()} bytes; to read it from its "
                    "start, call file.seek(0) first"
                )
            file = stack.enter_context(_copied(file, name))
        yield file, name


def _at_end(file: IO[bytes]) -> bool:
    here = file.tell()
    end = file.seek(0, 2)
    file.seek(here)
    return here >= end


def _copied(file: IO[bytes], name: str) -> IO[bytes]:
    """Copies the rest of a file to a temporary one."""
    copy: Any = tempfile.SpooledTemporaryFile(_SPOOLED)  # noqa: SIM115 the caller closes it
    try:
        head = block = _block(file, HEAD)
        check_kind(head, name)
        while block:
            copy.write(block)
            if copy.tell() > _MOST:
                raise ValueError(f"it has more than {_MOST >> 20} MiB: save it to a file that can seek first")
            block = _block(file, 1 << 20)
    except ValueError as error:
        copy.close()
        raise ValueError(f"cannot read {name or 'the file'}: {error}") from None
    copy.seek(0)
    result: IO[bytes] = copy
    return result


def _block(file: IO[bytes], size: int) -> bytes:
    """Reads ``size`` bytes, fewer only at the end of the file: a single read, as from a socket, may return less."""
    data = b""
    while len(data) < size:
        more = file.read(size - len(data))
        if not more:
            break
        data += more
    return data


def _read(file: IO[bytes], name: str, key: str | None) -> tuple[npt.NDArray[Any], str | None, _Described]:
    """The array of a file, its name there, and what the file says of it."""
    found = entries(file, name)
    if isinstance(found, Entry):
        if key is not None:
            raise ValueError(f"it holds one array, without a name: leave out the key {shown(key)}")
        return _array(found, "array"), None, (None, None, None, None)
    chosen = _choose(found, key)
    described = []
    for entry in _ENTRIES:
        value = None
        if entry in found and entry != chosen:
            if found[entry].bytes > _SMALL:  # checked before it is unpacked
                raise ValueError(f"its {entry} takes more than {_SMALL} bytes, expected one value")
            array = _array(found[entry], entry)
            if array.size != 1:
                raise ValueError(f"its {entry} has shape {array.shape}, expected one value")
            value = array.reshape(())[()] if array.dtype.kind in "mM" else array.item()  # item() may give an int
        described.append(value)
    checked = _check_entries(*described)
    return _array(found[chosen], shown(chosen)), chosen, checked


def _array(entry: Entry, name: str) -> npt.NDArray[Any]:
    try:
        return entry.read()
    except ValueError as error:
        raise ValueError(f"its {name} {error}") from None


def _choose(found: dict[str, Entry], key: str | None) -> str:
    """The name of the array to read."""
    choice = 'name one of them tokens, or choose one with --key NAME (in Python key="NAME")'
    if key is not None:
        if key not in found:
            raise ValueError(f"it has no array {shown(key)}; it holds the arrays {names_and_shapes(found)}; {choice}")
        return key
    names = [name for name in KNOWN_NAMES if name in found][:1] or [name for name in found if name not in _ENTRIES]
    if len(names) != 1:
        arrays = f"the arrays {names_and_shapes(found)}" if found else "nothing"
        raise ValueError(f"it holds {arrays}" + (f"; {choice}" if names else ", expected tokens"))
    return names[0]


def _unwrapped(array: npt.NDArray[Any], file: str, name: str, key: str | None) -> npt.NDArray[Any]:
    """The array of one recording, read from ``file``, without the axes of length 1 that other programs put around it.

    encodec writes (1, K, T), transformers (1, 1, K, T) (chunks, batch, codebooks, frames), upstream Vocos and this
    package (K, 1, T); (1, C, T) is a batch of features.
    """
    shape, code, stem = array.shape, _code(name, key), os.path.splitext(name)[0] or "tokens"  # noqa: PTH122
    array = array.reshape(shape_of_one(shape, array.dtype))
    if array.dtype.kind not in "iu":
        return array
    if array.ndim == 4:
        what, new, remedy = "one chunk of one recording is expected", "first", f"{code}[0, 0]) saves the first"
        if shape[1] == 1:
            what, new = "one chunk is expected", "joined"
            remedy = f"numpy.concatenate({code}[:, 0], axis=-1)) saves them joined in time"
        raise ValueError(
            f"{file} has shape {shape}, as transformers returns tokens (chunks, batch, codebooks, frames); {what}: "
            f"numpy.save({in_python(f'{stem}_{new}.npy')}, {remedy}"
        )
    if array.ndim == 2 and len(array) > MAX_CODEBOOKS >= array.shape[1] > 0 and int(array.min()) >= 0:
        index = {2: "", 3: "[0]" if shape[0] == 1 else "[:, 0]", 4: "[0, 0]"}[len(shape)]
        raise ValueError(
            f"{file} has shape {shape}, which looks like frames before codebooks, and (codebooks, frames) is expected: "
            f"numpy.save({in_python(f'{stem}_transposed.npy')}, {code}{index}.T) saves it so"
        )
    return array


def shape_of_one(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """The shape of one recording's array without the axes of length 1 around it; any other shape as it is."""
    if dtype.kind in "iu" and len(shape) == 4 and shape[:2] == (1, 1):
        return shape[2:]
    if len(shape) == 3 and shape[0] == 1 and dtype.kind in "iuf":
        return shape[1:]
    return (shape[0], shape[2]) if len(shape) == 3 and shape[1] == 1 and dtype.kind in "iu" else shape


def _code(name: str, key: str | None) -> str:
    """Python code that loads an array from a file, for messages."""
    index = "" if key is None else f"[{key!r}]" if key.isprintable() and len(key) < 100 else "[KEY]"
    file = in_python(name or "FILE")
    match os.path.splitext(name)[1][1:].lower():  # noqa: PTH122
        case "json":
            return f"numpy.array(json.loads(pathlib.Path({file}).read_text()){index})"
        case "safetensors":
            return f"safetensors.numpy.load_file({file}){index}"
    return f"numpy.load({file}){index}"


def _name(path: object) -> str:
    return str(path) if isinstance(path, str | os.PathLike) else "the file"


def demo_tokens() -> Tokens:
    """Tokens of a bundled 8 s speech recording: int16 codes (16 codebooks, 631 frames) of the bundled codec.

    Example:
        >>> audio = VocosONNX().decode(demo_tokens())
    """
    return read_token_file(default_model().with_name(DEMO_TOKENS))
