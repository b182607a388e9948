"""Reading hand-made checkpoints without torch; tests/parity reads files that torch itself writes."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fuzz import checkpoint_reader as hostile
from tests.helpers import ROOT
from tests.torch_bytes import HOOKS, Call, Name, archive, entry, pickled, safetensors, saved, storage, tensor, view
from vocos_onnx.model import checkpoint
from vocos_onnx.model.checkpoint import CheckpointError, fold_weight_norm, open_weights, read_state

RNG = np.random.default_rng(0)
ARRAYS: dict[str, np.ndarray] = {
    "f32": RNG.standard_normal((4, 3, 7), np.float32),
    "f16": RNG.standard_normal((2, 5)).astype(np.float16),
    "f64": RNG.standard_normal(9),
    "i64": RNG.integers(-5, 5, (2, 2)),
    "i32": np.array([1, -(1 << 30)], np.int32),
    "i16": np.array([1, -300], np.int16),
    "i8": np.array([1, -3], np.int8),
    "u8": np.array([1, 250], np.uint8),
    "bool": np.array([True, False, True]),
    "scalar": np.array(3.5, np.float32),
    "empty": np.empty((0, 3), np.float32),
}
KINDS = {
    "f4": "F32",
    "f2": "F16",
    "f8": "F64",
    "i8": "I64",
    "i4": "I32",
    "i2": "I16",
    "i1": "I8",
    "u1": "U8",
    "b1": "BOOL",
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(data: bytes, name: str = "pytorch_model.bin") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def as_safetensors(arrays: dict[str, np.ndarray], kinds: dict[str, str] | None = None) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, array in arrays.items():
        kind = (kinds or {}).get(name, KINDS.get(array.dtype.str[1:], ""))
        header[name] = entry(kind, array.shape, len(body), len(body) + array.nbytes)
        body += array.tobytes()
    return safetensors(header, body)


def refused(path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        hostile.read_all(path)
    assert str(path) in str(caught.value)


# Files that are read


@pytest.mark.parametrize("form", (saved, as_safetensors))
def test_every_type(form: Callable[[dict[str, np.ndarray]], bytes], write: Any) -> None:
    data = form(ARRAYS)
    path = write(data)
    with open_weights(path) as weights:
        assert list(weights) == [name for name in weights] and weights.keys() == ARRAYS.keys()
        assert weights.size == len(data)
        assert weights.sha256 == hashlib.sha256(data).hexdigest()
        for name, array in ARRAYS.items():
            found = weights[name]
            assert (found.name, found.dtype, found.shape) == (name, array.dtype.name, array.shape)
            values = found.read()
            assert values.dtype == (np.float32 if array.dtype.kind == "f" else array.dtype)
            assert values.shape == array.shape
            assert np.array_equal(values, array.astype(values.dtype))
            assert values.flags.c_contiguous and values.flags.writeable


@pytest.mark.parametrize("form", ("zip", "safetensors"))
def test_bfloat16(form: str, write: Any) -> None:
    """bfloat16 is the upper half of a float32, also for infinity, subnormals and NaN."""
    values = np.array([0, -0.0, 1, -2.5, 3e38, 1e-40, np.inf, -np.inf], np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16).reshape(2, 4)
    upper[0, 1] = 0x7FC1
    data = saved({"a": upper}) if form == "zip" else as_safetensors({"a": upper}, {"a": "BF16"})
    with open_weights(write(data)) as weights:
        assert weights["a"].dtype == "bfloat16"
        found = weights["a"].read()
    assert found.dtype == np.float32
    assert np.array_equal(found.view(np.uint32), upper.astype(np.uint32) << 16)


def test_float64_beyond_float32(write: Any) -> None:
    with open_weights(write(saved({"a": np.array([1e300, -1e300, 1e-300, 0.1])}))) as weights:
        assert weights["a"].read().tolist() == [np.inf, -np.inf, 0, float(np.float32(0.1))]


@pytest.mark.parametrize("kind", ("f4", "f2", "f8", "i8", "u2"))
def test_big_endian(kind: str, write: Any) -> None:
    array = RNG.integers(0, 100, (3, 2)).astype(f"<{kind}")
    pickle = pickled({"a": tensor("0", array)})
    data = archive(pickle, {"0": array.astype(f">{kind}").tobytes()}, others={"byteorder": b"big"})
    expected = (array.astype(np.uint32) << 16).view(np.float32) if kind == "u2" else array
    with open_weights(write(data)) as weights:
        found = weights["a"].read()
    assert found.dtype.isnative
    assert np.array_equal(found, expected.astype(found.dtype))


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    (
        ((4, 6), (6, 1), 0),
        ((6, 4), (1, 6), 0),  # transposed
        ((4, 2), (6, 1), 3),  # columns
        ((2, 6), (12, 1), 6),  # every second row
        ((), (), 23),
        ((3,), (0,), 5),  # expanded, but no larger than the file
        ((0, 5), (1, 1), 0),
        ((0,), (1 << 40,), 1 << 40),  # no elements, so the offset does not matter
        ((1, 24), (1 << 40, 1), 0),  # the stride of an axis of size 1 does not matter
        ((2, 2, 2, 3), (12, 6, 3, 1), 0),
    ),
)
def test_views(shape: tuple[int, ...], strides: tuple[int, ...], offset: int, write: Any) -> None:
    whole = np.arange(24, dtype=np.float32)
    pickle = pickled({"whole": tensor("0", whole), "view": view(storage("0", "f4", 24), shape, strides, offset)})
    places = [offset + sum(i * s for i, s in zip(index, strides, strict=True)) for index in np.ndindex(shape)]
    with open_weights(write(archive(pickle, {"0": whole.tobytes()}))) as weights:
        for name in ("view", "whole", "view"):  # before and after the storage's checksum is known
            found = weights[name].read()
            assert found.shape == (shape if name == "view" else (24,))
            assert found.ravel().tolist() == (places if name == "view" else whole.tolist())
            assert found.flags.c_contiguous
            found[...] = -1  # the result has its own memory


def test_what_torch_and_lightning_write(write: Any) -> None:
    """They also write OrderedDicts with attributes, optimisers, schedulers, types, sizes, devices and sets."""
    weight = np.ones((2, 3), np.float32)
    ordered = Name("collections OrderedDict")
    state = {"head.a": Call(Name("torch._utils _rebuild_parameter"), (tensor("0", weight), True, HOOKS)),
             "backbone.b": tensor("1", np.array(7)), "multiresddisc.c": tensor("2", weight), "loss": None}  # fmt: skip
    tree = {
        "state_dict": state,
        "epoch": 3,
        "hyper_parameters": {"lr": 1e-4, "name": "x", "betas": (0.8, 0.9), "none": None, "on": True, 3: 1 << 40},
        "optimizer_states": [{"state": {0: {"step": tensor("1", np.array(7)), "exp_avg": tensor("2", weight)}}}],
        "lr_schedulers": [{"milestones": Call(Name("collections Counter"), ({1: 1, 2: 1},))}],
        "other": [
            Call(Name("collections defaultdict"), (None,)), Call(Name("torch Size"), ((2, 3),)), Name("torch float32"),
            Call(Name("torch device"), ("cuda", 0)), Call(Name("__builtin__ set"), ([1, 2],)),
            Call(Name("torch.serialization _get_layout"), ("torch.strided",)), Call(ordered, (), {"_metadata": {}}),
        ],
    }  # fmt: skip
    storages = {"0": weight.tobytes(), "1": np.array(7).tobytes(), "2": weight.tobytes()}
    path = write(archive(pickled(tree), storages, folder="vocos_checkpoint_epoch=3"), "last.ckpt")
    with open_weights(path) as weights:
        assert list(weights) == ["head.a", "backbone.b"]
    state_, _ = read_state(path, lambda name: name.startswith("backbone."))
    assert list(state_) == ["backbone.b"]
    assert state_["backbone.b"].dtype == np.float32
    assert state_["backbone.b"] == 7


@pytest.mark.parametrize(
    "others",
    (
        {"byteorder": b"little\n"},
        {".data/version": b"3\n"},
        {".format_version": b"1", ".storage_alignment": b"64", ".data/serialization_id": b"1" * 40},
        {"nested/data.pkl": pickled(Call(Name("posix system"), ("false",)))},
    ),
)
def test_other_members(others: dict[str, bytes], write: Any) -> None:
    data = saved({"a": hostile.ONES}, others=others)
    assert np.array_equal(hostile.read_all(write(data))["a"], hostile.ONES)


def test_padding_between_members_and_in_local_headers(write: Any) -> None:
    """As torch writes it: the extra field of a local header differs from that of the directory."""
    found, records, at = b"", b"", 0
    members = {
        "a/data.pkl": pickled({"w": tensor("0", hostile.ONES)}),
        "a/data/0": hostile.ONES.tobytes(),
        "a/version": b"3",
    }
    for name, data in members.items():
        extra = b"FB" + struct.pack("<H", 21) + b"Z" * 21
        head = struct.pack("<5H3I", 0, 1 << 3, 0, 0, 0, 0, 0, 0)
        found += b"PK\3\4" + head + struct.pack("<2H", len(name), len(extra)) + name.encode() + extra + data
        found += b"PK\7\x08" + bytes(12)  # a data descriptor
        # sizes and offset in the zip64 field
        wide = struct.pack("<2H3Q", 1, 24, len(data), len(data), at)
        records += b"PK\1\2" + struct.pack("<6H3I5H2I", 0, 0, 1 << 3, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name),
                                           4 + len(wide), 0, 0, 0, 0, 0xFFFFFFFF) + name.encode()  # fmt: skip
        records += struct.pack("<2H", 7, 0) + wide
        at = len(found)
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 3, 3, len(records), len(found))
    end += struct.pack("<4sIQI", b"PK\6\7", 0, len(found + records), 1)
    end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert np.array_equal(hostile.read_all(write(found + records + end))["w"], hostile.ONES)


def test_damaged_numbers_are_noticed_when_they_are_read(write: Any) -> None:
    arrays = {"a": RNG.standard_normal(100_000).astype(np.float32), "b": hostile.ONES}
    data = bytearray(saved(arrays))
    data[data.index(arrays["a"].tobytes()) + 300_000] ^= 1
    with open_weights(write(bytes(data))) as weights:
        assert np.array_equal(weights["b"].read(), hostile.ONES)
        for _ in range(2):
            with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is truncated, damaged .*'a': the checksum"):
                weights["a"].read()


def test_the_kind_is_told_by_the_content(write: Any) -> None:
    arrays = {"a": hostile.ONES}
    for data, name in ((saved(arrays), "model.safetensors"), (as_safetensors(arrays), "pytorch_model.bin")):
        assert np.array_equal(hostile.read_all(write(data, name))["a"], hostile.ONES)


@pytest.mark.parametrize("cut", (1, 10, 200, 600))
@pytest.mark.parametrize("form", (saved, as_safetensors))
def test_truncated(form: Callable[[dict[str, np.ndarray]], bytes], cut: int, write: Any) -> None:
    refused(write(form(ARRAYS)[:-cut]), r"is truncated, damaged or no checkpoint \(.+\); copy or download it again")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_weights(tmp_path / "none.bin"):
        pass
    with pytest.raises(OSError), open_weights(tmp_path):
        pass
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo.bin")
        refused(tmp_path / "fifo.bin", "is not a file; expected weights")


def test_a_sparse_file_of_terabytes(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    refused(path, "expected at most 8589934592 of weights")


@pytest.mark.parametrize("change", ("longer", "shorter", "written again"))
def test_changed_while_it_is_read(change: str, write: Any) -> None:
    array = RNG.standard_normal(100_000).astype(np.float32)
    path = write(saved({"a": array, "b": array}))
    with pytest.raises(CheckpointError, match="while it was read"), open_weights(path) as weights:
        weights["a"].read()
        if change == "longer":
            with path.open("ab") as file:
                file.write(b"x")
        elif change == "shorter":
            os.truncate(path, 450_000)
        else:
            time.sleep(0.02)
            path.write_bytes(path.read_bytes())
        weights["b"].read()


def test_errors_of_the_caller_pass(write: Any) -> None:
    with pytest.raises(ValueError, match="mine") as caught, open_weights(write(saved({"a": hostile.ONES}))):
        raise ValueError("mine")
    assert not isinstance(caught.value, CheckpointError)


# Weight norm


WEIGHT_NORM = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))


@pytest.mark.parametrize("names", WEIGHT_NORM)
def test_weight_norm(names: tuple[str, str], write: Any) -> None:
    g_name, v_name = names
    g, v = RNG.standard_normal((4, 1, 1), np.float32), RNG.standard_normal((4, 3, 7), np.float32)
    bias = RNG.standard_normal(4, np.float32)
    path = write(saved({f"head.conv.{v_name}": v, "head.conv.bias": bias, f"head.conv.{g_name}": g}))
    state, digest = read_state(path, lambda name: True)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert state.keys() == {"head.conv.weight", "head.conv.bias"}
    weight = state["head.conv.weight"]
    assert weight.dtype == np.float32
    rows = v.reshape(4, -1).astype(np.float64)
    expected = np.stack([g[i, 0, 0] * rows[i] / np.linalg.norm(rows[i]) for i in range(4)]).reshape(v.shape)
    np.testing.assert_allclose(weight, expected, rtol=1e-7)
    flat = fold_weight_norm({f"a.{g_name}": g.reshape(4), f"a.{v_name}": v})["a.weight"]
    assert np.array_equal(flat, weight)


@pytest.mark.parametrize(
    ("state", "match"),
    (
        ({"a.weight_g": np.ones((4, 1))}, r"has a\.weight_g but lacks a\.weight_v"),
        ({"a.weight_g": np.ones((3, 1)), "a.weight_v": np.ones((4, 2))}, r"'a\.weight_g' has the shape \(3, 1\)"),
        ({"a.weight_g": np.ones(()), "a.weight_v": np.ones(())}, "does not go with"),
        ({"a.weight_g": np.ones(1), "a.weight_v": np.ones((1, 2)), "a.weight": np.ones(2)}, r"and also a\.weight"),
    ),
)
def test_weight_norm_that_does_not_fit(state: dict[str, np.ndarray], match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        fold_weight_norm({name: array.astype(np.float32) for name, array in state.items()})


def test_weight_norm_of_zeros_and_nothing() -> None:
    """0/0 gives NaN, as in torch; the users of the weights reject it."""
    zeros, empty = np.zeros((2, 3), np.float32), np.zeros((0, 3), np.float32)
    assert np.isnan(fold_weight_norm({"a.weight_g": zeros[:, :1], "a.weight_v": zeros})["a.weight"]).all()
    assert fold_weight_norm({"a.weight_g": empty[:, :1], "a.weight_v": empty})["a.weight"].shape == (0, 3)


# Hostile files


@pytest.mark.parametrize("name", hostile.ATTACKS)
def test_attacks(name: str, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attack raises an error, runs nothing, and allocates no memory for data that the file does not contain."""
    monkeypatch.chdir(tmp_path)
    path, seen = write(hostile.ATTACKS[name]()), hostile.watch()
    before = seen.total()
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            hostile.read_all(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 80 << 20
    assert seen.total() == before, seen
    assert not Path(hostile.CANARY).exists()
    message = str(caught.value)
    assert str(path) in message
    assert len(message) < 1000 and message.isprintable()
    if name.startswith("the name"):
        assert name.removeprefix("the name ").replace(" ", ".") in message


REASONS = {
    "members that overlap": "two members overlap",
    "a member within another": "two members overlap",
    "a header that is far too long": "a member goes beyond the beginning of the directory",
    "a directory that is elsewhere": "its directory is not where its end says",
    "an archive behind another": "its directory is not where its end says",
    "fewer members": "its directory has more than its members",
    "a negative offset": "a negative offset or stride",
    "a negative stride": "a negative offset or stride",
    "calls across a mark": "takes a value that is not there",
    "a huge shape": "a tensor ends at byte 4398046511104 of a storage of 24",
    "an expansion": "they repeat or share what is in it",
    "a key that takes years to hash": "has the key",
    "a bomb": "compressed or encrypted members",
    "NEWOBJ of what is allowed": "the opcode NEWOBJ",
    "a number of a million digits": "the opcode LONG",
    "safetensors: an overlap of the right size": "'b' begins at byte",
    "safetensors: more bytes than the shape": r"'a' has 8 bytes, and its shape \[1\] takes 4",
}


@pytest.mark.parametrize("name", REASONS)
def test_reasons(name: str, write: Any) -> None:
    """Each of these checks rejects its file itself, rather than a later one."""
    refused(write(hostile.ATTACKS[name]()), REASONS[name])


def test_the_attacks_are_ones(tmp_path: Path) -> None:
    """Python's own unpickler runs the command, so the canary does detect an attack."""
    (tmp_path / "attack.pkl").write_bytes(pickled(Call(Name("posix system"), (hostile.COMMAND,))))
    code = "import pickle; from pathlib import Path; pickle.loads(Path('attack.pkl').read_bytes())"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / hostile.CANARY).exists()


def test_the_watch_sees_what_runs() -> None:
    seen = hostile.watch()
    before = seen.total()
    pickle.loads(pickled(Name("collections OrderedDict")))
    assert seen.total() == before + 1


@pytest.mark.parametrize("target", hostile.TARGETS)
def test_hostile_files_at_random(target: str, tmp_path: Path) -> None:
    """A short version of: python -m tests.fuzz.run."""
    outcomes = {"right": 0, "refused": 0}
    for case in range(60):
        try:
            hostile.TARGETS[target].run(np.random.default_rng((1, case)), tmp_path)
            outcomes["right"] += 1
        except CheckpointError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 10, outcomes


def test_needs_no_torch() -> None:
    """The reader imports neither torch nor any other library for checkpoints, zip archives or YAML."""
    code = "import sys, vocos_onnx.model.checkpoint; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    modules = {name.split(".")[0] for name in done.stdout.split()}
    assert not modules & {"torch", "onnx", "onnxruntime", "safetensors", "scipy", "zipfile", "yaml"}


def test_legacy_format_names_the_remedy(write: Any) -> None:
    path = write(hostile.ATTACKS["the legacy format"](), "encodec_24khz.th")
    refused(
        path, r"torch before 1\.6.*torch\.save\(torch\.load\(\"encodec_24khz\.th\", weights_only=True\), \"new-encodec"
    )


def test_one_error_for_all() -> None:
    assert issubclass(checkpoint.CheckpointError, ValueError)
