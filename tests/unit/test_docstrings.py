"""Every public name has a docstring, and the examples in docstrings run."""

from __future__ import annotations

import ast
import asyncio
import doctest
import importlib
import inspect
import io
import json
import pkgutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vocos_onnx
import vocos_onnx.batch
from vocos_onnx import EncodecONNX, VocosONNX, demo_tokens, save_audio, save_tokens
from vocos_onnx.batch import Settings
from vocos_onnx.batch.manifest import Item

# these examples need the hub or a cluster, or start a server that does not end; the tests of the pages,
# tests/batch_ray and tests/service cover those
_ELSEWHERE = ("charactr/", "facebook/", "10.0.0.5", "run(Settings(port")
_OPTIONAL = {"vocos_onnx.batch.ray_engine": "ray", "vocos_onnx.evaluate": "jinja2"}
MODULES = sorted(info.name for info in pkgutil.walk_packages(vocos_onnx.__path__, "vocos_onnx."))


def public() -> Iterator[tuple[str, Any]]:
    """The public names, including methods and properties of classes."""
    for module in (vocos_onnx, vocos_onnx.batch):
        yield module.__name__, module
        for name in module.__all__:
            value = getattr(module, name)
            yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                for attribute, member in inspect.getmembers_static(value):
                    if not attribute.startswith("_") and not hasattr(object, attribute):
                        is_documented = callable(member) or isinstance(member, property | classmethod | staticmethod)
                        if is_documented:
                            yield f"{module.__name__}.{name}.{attribute}", member


def importable(name: str) -> Any:
    """Import a module, or skip the test if a package of an extra is missing."""
    needed = next((package for prefix, package in _OPTIONAL.items() if name.startswith(prefix)), None)
    if needed is not None and find_spec(needed) is None:
        pytest.skip(f"{name} needs {needed}")
    return importlib.import_module(name)


def test_every_public_name_has_a_docstring() -> None:
    names = dict(public())
    assert len(names) > 60
    missing = [name for name, value in names.items() if not (inspect.getdoc(value) or "").strip()]
    assert not missing


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_docstring(name: str) -> None:
    if name.endswith("__main__"):
        pytest.skip("a program, which runs when it is imported")
    assert (importable(name).__doc__ or "").strip()


class _Listener:
    """A stand-in for a websocket whose client accepts every message."""

    async def send(self, message: bytes) -> None:
        """Accepts a message."""
        assert message


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The names that the examples assume."""
    vocos, encoder = VocosONNX(), EncodecONNX()
    tokens = demo_tokens().codes[:, :150]
    audio = vocos.decode(tokens)
    mel_vocos = VocosONNX("vocos-mel-24khz-small")
    data = io.BytesIO()
    save_audio(data, audio, 24_000, format="wav")
    return {
        **{name: getattr(vocos_onnx, name) for name in vocos_onnx.__all__},
        "io": io,
        "Path": Path,
        "Item": Item,
        "vocos": vocos,
        "encoder": encoder,
        "tokens": tokens,
        "chunks": [tokens[:, :75], tokens[:, 75:]],
        "audio": audio,
        "recording": audio,
        "blocks": [audio],
        "rate": 24_000,
        "sample_rate": 24_000,
        "asyncio": asyncio,
        "streams": [vocos.stream(), vocos.stream()],
        "websocket": _Listener(),
        "send": len,
        "data": data.getvalue(),
        "buffer": io.BytesIO(),
        "config": mel_vocos.config,
        "mels": mel_vocos.features(audio, 24_000),
        "play": len,
        "settings": Settings.of("encode", bandwidth=3),
        "other": Settings.of("encode", bandwidth=6),
    }


@pytest.fixture
def folder(names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of an example, with the files it reads."""
    monkeypatch.chdir(tmp_path)
    save_audio("speech.wav", names["audio"], 24_000)
    save_audio("speech.flac", names["audio"], 24_000)
    save_audio("interview.flac", np.tile(names["audio"], 34), 24_000)
    for name in ("speech", "utterance-0001", "utterance-0002", "a"):
        save_tokens(f"{name}.npz", names["tokens"], names["vocos"])
    rows = [json.dumps({"path": f"utterance-000{i}.npz"}) for i in (1, 2)]
    Path("corpus.jsonl").write_text("\n".join(rows))
    return tmp_path


class _Checker(doctest.OutputChecker):
    """Accepts any output of an example that shows none."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


def _examples() -> Iterator[tuple[str, str]]:
    """Module and name of each docstring with an example."""
    for module in MODULES:
        needed = next((package for prefix, package in _OPTIONAL.items() if module.startswith(prefix)), None)
        if module.endswith("__main__") or (needed is not None and find_spec(needed) is None):
            continue
        for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module)):
            if test.examples and not any(text in example.source for example in test.examples for text in _ELSEWHERE):
                yield module, test.name


def _run_as_coroutine(source: str, names: dict[str, Any]) -> None:
    """Run an example that uses await at its top level."""
    coroutine = eval(compile(source, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    asyncio.run(coroutine)


@pytest.mark.filterwarnings("ignore:these features:UserWarning")  # one array stands for mels of several conventions
@pytest.mark.parametrize(("module", "name"), list(_examples()))
def test_examples(module: str, name: str, names: dict[str, Any], folder: Path) -> None:
    if "metrics" in module:
        pytest.importorskip("pesq")
    if "work" in module:
        names = names | {"settings": Settings.of("decode"), "Path": Path}
        (folder / "out").mkdir()
    loaded = importlib.import_module(module)
    (test,) = [test for test in doctest.DocTestFinder().find(loaded) if test.name == name]
    if module == "vocos_onnx.mels":
        names = names | {"vocos": VocosONNX("vocos-mel-24khz-small"), "mels": names["mels"].T}
    if "skeletons" in module and "filled" in "".join(example.source for example in test.examples):
        pytest.skip("its weights are those of a checkpoint: tests/unit/convert")
    test.globs = {**names, **vars(loaded), "__name__": "__main__"}
    if any(word in example.source for example in test.examples for word in ("await ", "async ")):
        _run_as_coroutine("".join(example.source for example in test.examples), test.globs)
        return
    shown: list[str] = []
    doctest.DocTestRunner(_Checker(), optionflags=doctest.ELLIPSIS).run(test, out=shown.append)
    assert not shown, "".join(shown)
