"""The rows of manifests and folders: what they may be, and what is said of those that cannot be used."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from vocos_onnx.batch.manifest import Manifest


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(path: Path) -> list[tuple[str, Path]]:
    return [(item.id, item.path) for item in Manifest(path)]


def test_jsonl(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"12345")
    rows = [{"id": "one", "path": "a.wav"}, "", {"id": 2, "path": "/data/b.flac", "text": "é"}, {"path": "sub/c.MP3"}]
    manifest = Manifest(write(tmp_path / "m.jsonl", *rows))
    assert len(manifest) == 3
    assert [(item.index, item.id, item.path, item.size) for item in manifest] == [
        (0, "one", tmp_path / "a.wav", 5),
        (1, "2", Path("/data/b.flac"), -1),
        (2, "c", tmp_path / "sub/c.MP3", -1),
    ]
    assert manifest.kind == "audio"
    assert [manifest.find(id) for id in ("one", "2", "c", "d")] == [0, 1, 2, None]
    assert manifest[2].id == "c"
    status = (tmp_path / "a.wav").stat()
    assert manifest.has_input(0, 5, status.st_mtime_ns)
    assert not manifest.has_input(0, 5, status.st_mtime_ns + 1)


def test_a_relative_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lists").mkdir()
    write(Path("lists/m.jsonl"), {"path": "a.npz"})
    assert read(Path("lists/m.jsonl")) == [("a", tmp_path / "lists" / "a.npz")]


def test_nemo(tmp_path: Path) -> None:
    """Its manifests have one object a line, whatever their ending."""
    rows = [{"audio_filepath": f"wavs/{n}.wav", "duration": 1.5, "text": "a"} for n in range(3)]
    assert read(write(tmp_path / "train_manifest.json", *rows)) == [
        (f"{n}", tmp_path / "wavs" / f"{n}.wav") for n in range(3)
    ]


@pytest.mark.parametrize(("name", "delimiter"), [("m.csv", ","), ("m.tsv", "\t"), ("M.CSV", ",")])
def test_tables(tmp_path: Path, name: str, delimiter: str) -> None:
    with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows(
            [["id", "text", "path"], ["x", 'two\nlines, "quoted"', "a, b.npy"], [], ["", "", "c.npy"]],
        )
    manifest = Manifest(tmp_path / name)
    assert [(item.id, item.path) for item in manifest] == [("x", tmp_path / "a, b.npy"), ("c", tmp_path / "c.npy")]
    assert manifest.kind == "tokens"


def test_folder(tmp_path: Path) -> None:
    """In the order of the paths, with subfolders, without what is hidden or of another kind."""
    for name in ("b.wav", "a/z.flac", "a/notes.json", ".c.wav", ".hidden/d.wav", "text.txt", "é.ogg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert read(tmp_path) == [("z", tmp_path / "a/z.flac"), ("b", tmp_path / "b.wav"), ("é", tmp_path / "é.ogg")]


def test_the_manifest_may_change_afterwards(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", *({"path": f"{n}.wav"} for n in range(100)))
    manifest = Manifest(path)
    path.write_text("")
    assert [item.id for item in manifest] == [str(n) for n in range(100)]


BAD_ROWS = {
    "no JSON": ("{", "line 2: it is no JSON"),
    "a list": ([1], r"line 2: it is \[1\], expected an object"),
    "no path": ({"id": "a", "wav": "a.wav"}, "line 2: it has no path, but id, wav; expected path or audio_filepath"),
    "an empty path": ({"path": ""}, "line 2: its path is '', expected the name of a file"),
    "a number as path": ({"path": 3}, "line 2: its path is 3, expected"),
    "a null character": ({"path": "a\0.wav"}, "line 2: its path is"),
    "a URL": ({"path": "https://host/a.wav"}, "line 2: its path is .* a URL"),
    "an id with /": ({"id": "a/b", "path": "b.wav"}, r"line 2: its id 'a/b' holds a / or \\"),
    "an id with a backslash": ({"id": "a\\b", "path": "b.wav"}, r"line 2: its id .* holds a / or \\"),
    "an id with ..": ({"id": "..", "path": "b.wav"}, r"line 2: its id '\.\.' holds \.\."),
    "an id with .. in it": ({"id": "a..b", "path": "b.wav"}, r"line 2: its id 'a\.\.b' holds \.\."),
    "a hidden id": ({"id": ".lock", "path": "b.wav"}, "line 2: its id '.lock' begins with a dot"),
    "a control character": ({"id": "a\x1b[2J", "path": "b.wav"}, "line 2: its id .* control characters"),
    "a line's end": ({"id": "a\nb", "path": "b.wav"}, "line 2: its id .* control characters"),
    "a space at the end": ({"id": "a ", "path": "b.wav"}, "line 2: its id 'a ' .* spaces at its ends"),
    "an empty id": ({"id": "", "path": "b.wav"}, "line 2: its id is '', expected text"),
    "a list as id": ({"id": [], "path": "b.wav"}, r"line 2: its id is \[\], expected text"),
    "a float as id": ({"id": 1.5, "path": "b.wav"}, "line 2: its id is 1.5, expected text"),
    "a long id": ({"id": "é" * 101, "path": "b.wav"}, "line 2: its id .* is longer than 200 bytes"),
    "twice": ({"path": "other/a.wav"}, "line 2: the id 'a' is that of '.*/a.wav', too"),
    "another kind of file": ({"path": "b.txt"}, "line 2: 'b.txt' ends neither as audio .* nor as tokens"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD_ROWS))
def test_bad_rows_are_named(tmp_path: Path, name: str) -> None:
    row, message = BAD_ROWS[name]
    path = write(tmp_path / "m.jsonl", {"path": "a.wav"}, row, {"path": "c.wav"})
    with pytest.raises(ValueError, match=f"m.jsonl: 1 of 3 lines cannot be used: {message}"):
        Manifest(path)


def test_ids_with_dots(tmp_path: Path) -> None:
    manifest = Manifest(write(tmp_path / "m.jsonl", {"path": "a.wav"}, {"path": "b.1.wav"}, {"path": "c.2.wav"}))
    assert [item.id for item in manifest] == ["a", "b.1", "c.2"]
    assert manifest.dotted == "b.1"


def test_the_first_bad_rows_of_many(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", {"path": "a.wav"}, *["{"] * 25, {"path": "b.wav"})
    with pytest.raises(ValueError, match=r"25 of 27 lines cannot be used: line 2: .*line 11: [^;]*;[^;]*; and 15 more"):
        Manifest(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"path": "a.wav"}\n{"path": "\xff.wav"}\n' + b"x" * (3 << 20) + b'\n{"path": "c.wav"}\n')
    with pytest.raises(ValueError, match=r"2 of 4 lines .*line 2: byte 11 is not UTF-8; line 3: it is longer than"):
        Manifest(path)


def test_bad_tables(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("id,path\na,a.wav\nb\nc,c.wav,x\nd,d\0.wav\n")
    with pytest.raises(
        ValueError, match=r"3 of 4 lines .*line 3: it has 1 columns, .*line 4: it has 3 .*line 5: it holds a null"
    ):
        Manifest(path)
    path.write_text("a,b\nc,d\n")
    with pytest.raises(ValueError, match="the first line has the columns a, b; expected path, or audio_filepath"):
        Manifest(path)
    path.write_text("")
    with pytest.raises(ValueError, match="holds no rows"):
        Manifest(path)


def test_mixed_kinds(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", {"path": "a.wav"}, {"path": "b.npz"}, {"path": "c.npy"})
    with pytest.raises(ValueError, match=r"mixes kinds: audio in line 1 \('a.wav'\) and tokens in line 2 \('b.npz'\)"):
        Manifest(path)


def test_what_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no manifest .*expected a .jsonl"):
        Manifest(tmp_path / "nothing.jsonl")
    with pytest.raises(ValueError, match=r"'m.txt' does not end as a manifest does: expected .jsonl, .*or a folder"):
        Manifest(write(tmp_path / "m.txt", "a.wav"))
    with pytest.raises(ValueError, match="holds no rows"):
        Manifest(write(tmp_path / "m.jsonl"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"the folder .* holds no audio and no .npy or .npz files"):
        Manifest(tmp_path / "folder")


def test_names_in_a_folder_that_are_there_twice(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.wav").write_bytes(b"1")
    with pytest.raises(ValueError, match=r"1 of 2 files cannot be used: 'b/1.wav': the id '1' .*a manifest can name"):
        Manifest(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")).write_bytes(b"1")
    with pytest.raises(ValueError, match=r"1 of 1 files cannot be used: .*control characters"):
        Manifest(tmp_path)
    path = write(tmp_path / "m.jsonl", {"id": "a", "path": os.fsdecode(b"\xff.wav")})
    manifest = Manifest(path)
    assert manifest[0].size == 1
    assert manifest[0].path.read_bytes() == b"1"
