"""The cache of converted models alone; tests/hub tests it with the hub and across processes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vocos_onnx.model.cache import VARIABLE, Made, ModelCache, NoCacheError, cache_folder, file_sha256, model_key

MADE = Made("acme/vocos", "1" * 40, "vocoder", "float32", "a" * 64)
SOURCE = ("hub", "acme/vocos", "1" * 40)
DATA = b"a model" * 1000


def write(path: Path) -> Made:
    path.write_bytes(DATA)
    return MADE


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache")


def everything(cache: ModelCache) -> set[str]:
    return {path.relative_to(cache.folder).as_posix() for path in cache.folder.rglob("*") if path.is_file()}


def test_an_entry(cache: ModelCache) -> None:
    assert cache.entry("k") is None
    assert cache.find(SOURCE) is None
    assert list(cache.entries()) == []
    assert not cache.folder.exists()  # reading creates nothing
    entry = cache.make("k", write)
    assert entry == cache.entry("k")
    assert (entry.size, entry.sha256, entry.made) == (len(DATA), file_sha256(entry.path), MADE)
    assert entry.path.read_bytes() == DATA
    assert list(cache.entries()) == [entry]
    assert cache.names(entry) == ["acme/vocos"]
    cache.remember(SOURCE, entry)
    cache.remember(("hub", "other/vocos", "2" * 40), entry)
    assert cache.names(entry) == ["acme/vocos", "other/vocos"]
    assert cache.find(SOURCE) == entry
    assert cache.find(SOURCE, (1,)) is None
    cache.remove(entry)
    assert cache.entry("k") is None
    assert cache.find(SOURCE) is None
    assert not [name for name in everything(cache) if name.startswith("models")]


def test_the_state_of_a_source(cache: ModelCache) -> None:
    entry = cache.make("k", write)
    cache.remember(("local", "/a"), entry, (7, 1))
    assert cache.find(("local", "/a"), (7, 1)) == entry
    assert cache.find(("local", "/a"), (7, 2)) is None
    assert cache.find(("local", "/a")) is None
    cache.remember(("local", "/a"), entry, (7, 2))
    assert cache.find(("local", "/a"), (7, 1)) is None
    assert len([name for name in everything(cache) if name.startswith("sources")]) == 1


def test_commits(cache: ModelCache) -> None:
    assert cache.commit("a/b", "main") is None
    for commit in ("1" * 40, "2" * 40):
        cache.remember_commit("a/b", "main", commit)
        assert cache.commit("a/b", "main") == commit
    assert cache.commit("a/b", "v1") is None


def test_keys_differ() -> None:
    parts = [["a" * 64, "b" * 64], ["c" * 64, ""], ["vocoder", "encoder"], ["float32", "int8"]]
    keys = {model_key(a, b, c, d) for a in parts[0] for b in parts[1] for c in parts[2] for d in parts[3]}
    assert len(keys) == 16


def test_a_conversion_that_fails_leaves_nothing(cache: ModelCache) -> None:
    def fails(path: Path) -> Made:
        path.write_bytes(DATA)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.make("k", fails)
    assert everything(cache) == set()
    assert cache.make("k", write) == cache.entry("k")


@pytest.mark.parametrize("damage", ["cut", "longer", "gone", "entry cut", "entry of another kind", "entry gone"])
def test_damage(cache: ModelCache, damage: str) -> None:
    entry = cache.make("k", write)
    note = entry.path.with_name("entry.json")
    match damage:
        case "cut":
            os.truncate(entry.path, 5)
        case "longer":
            entry.path.write_bytes(DATA + b"x")
        case "gone":
            entry.path.unlink()
        case "entry cut":
            os.truncate(note, 10)
        case "entry of another kind":
            note.write_text(json.dumps([1]))
        case "entry gone":
            note.unlink()
    assert cache.entry("k") is None
    assert list(cache.entries()) == []
    assert cache.make("k", write).path.read_bytes() == DATA
    shutil.rmtree(cache.folder)


def test_changes_of_the_same_size(cache: ModelCache) -> None:
    entry = cache.make("k", write)
    assert entry.is_unchanged()
    entry.path.write_bytes(DATA[::-1])
    found = cache.entry("k")
    assert found is not None
    assert not found.is_unchanged()
    entry.path.unlink()
    assert not entry.is_unchanged()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"source": 5}', '{"key": 5, "state": []}'])
def test_damaged_notes(cache: ModelCache, text: str) -> None:
    entry = cache.make("k", write)
    cache.remember(SOURCE, entry)
    cache.remember_commit("a/b", "main", "1" * 40)
    for place in (cache.folder / "sources").iterdir():
        place.write_text(text)
    assert cache.find(SOURCE) is None
    assert cache.commit("a/b", "main") is None
    assert cache.names(entry) == ["acme/vocos"]
    cache.remember(SOURCE, entry)
    assert cache.find(SOURCE) == entry


def test_what_was_left_behind_is_removed(cache: ModelCache) -> None:
    cache.make("k", write)
    old, new = cache.folder / "models" / ".making-old", cache.folder / "models" / ".making-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "model.onnx").write_bytes(DATA)
    os.utime(old, (time.time() - 7200,) * 2)
    cache.make("l", write)
    assert not old.exists()
    assert new.exists()
    assert len(list(cache.entries())) == 2


PROGRAM = """
import sys, time
from pathlib import Path
from vocos_onnx.model.cache import Made, ModelCache

def slowly(path):
    path.write_bytes(bytes([int(sys.argv[2])]) * 1000)
    time.sleep(0.2)
    return Made("acme/vocos", "1" * 40, "vocoder", "float32", "a" * 64)

entry = ModelCache(Path(sys.argv[1])).make("k", slowly)
print(entry.path.read_bytes()[0], entry.sha256)
"""


def test_many_at_once(cache: ModelCache) -> None:
    """Concurrent processes all get the same complete model, whichever is first."""
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(cache.folder), str(number)], stdout=subprocess.PIPE)
        for number in range(8)
    ]
    found = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert len(set(found)) == 1
    entry = cache.entry("k")
    assert entry is not None
    assert entry.is_unchanged()
    assert everything(cache) == {"models/k/model.onnx", "models/k/entry.json"}


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = ModelCache(tmp_path / "file" / "cache")
    with pytest.raises(NoCacheError, match="cannot be written"):
        cache.make("k", write)
    with caplog.at_level(logging.DEBUG):
        cache.remember_commit("a/b", "main", "1" * 40)  # does nothing but log
    assert "cannot be written" in caplog.text
    assert cache.commit("a/b", "main") is None
    assert list(cache.entries()) == []


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "~/models")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cache_folder() == tmp_path / "models"
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    with pytest.raises(NoCacheError, match=r"pip install 'vocos-onnx\[hub\]', or name one in VOCOS_ONNX_CACHE"):
        cache_folder()
    monkeypatch.delitem(sys.modules, "platformdirs")
    platformdirs = pytest.importorskip("platformdirs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == Path(platformdirs.user_cache_dir("vocos-onnx", appauthor=False))
