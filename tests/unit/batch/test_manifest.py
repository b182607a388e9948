"""The rows of manifests and folders: what they may contain, and the errors for those that cannot be used."""

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
    """NeMo's manifests have one JSON object per line, even if they end in .json."""
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
    """A folder is read in path order with its subfolders, without hidden files and files of other kinds."""
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
    "a character of Windows": ({"id": 'a"b', "path": "b.wav"}, 'line 2: its id .* holds ", which no name of a file'),
    "a colon": ({"path": "12:30.wav"}, "line 2: the id, taken from its name, '12:30' holds :, which no name"),
    "a device": ({"id": "Con", "path": "b.wav"}, "line 2: its id 'Con' is the name of a device on Windows"),
    "a device with an ending": ({"path": "lpt1.x.wav"}, "line 2: the id, .* 'lpt1.x' is the name of a device"),
    "a dot at the end": ({"id": "a.", "path": "b.wav"}, "line 2: its id 'a.' ends with a dot"),
    "other capitals": ({"id": "A", "path": "b.wav"}, "line 2: the id 'A' is 'a' with other capitals: on macOS and"),
    "audio that is not read": ({"path": "x y/b.M4A"}, r"line 2: 'x y/b.M4A' .*: ffmpeg -i b.M4A b.flac$"),
    "a tar file": ({"path": "b.tar"}, "line 2: 'b.tar' is a tar file: unpack it, and name the files in it"),
    "a duration of nothing": ({"path": "b.wav", "duration": 0}, "line 2: its duration is 0, expected .*, more than 0$"),
    "a negative offset": ({"path": "b.wav", "offset": -0.5}, "line 2: its offset is -0.5, expected .*, 0 or more$"),
    "an infinite offset": ('{"path": "b.wav", "offset": Infinity}', "line 2: its offset is inf, .*, 0 or more$"),
    "a duration of nan": ('{"path": "b.wav", "duration": NaN}', "line 2: its duration is nan, .*, more than 0$"),
    "a large offset": ({"path": "b.wav", "offset": 10**400}, "line 2: its offset is .*, expected .*, 0 or more$"),
    "a text as duration": ({"path": "b.wav", "duration": "2"}, "line 2: its duration is '2', .*, more than 0$"),
    "a bool as offset": ({"path": "b.wav", "offset": True}, "line 2: its offset is True, expected .*, 0 or more$"),
    "a segment of tokens": ({"path": "b.npz", "offset": 2}, "line 2: its offset is 2, and only audio has"),
    "twice": ({"path": "other/a.wav"}, "line 2: the id 'a' is that of '.*/a.wav', too"),
    "another kind of file": ({"path": "b.txt"}, "line 2: 'b.txt' ends neither as audio .* nor as tokens"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD_ROWS))
def test_bad_rows_are_named(tmp_path: Path, name: str) -> None:
    row, message = BAD_ROWS[name]
    path = write(tmp_path / "m.jsonl", {"path": "a.wav"}, row, {"path": "c.wav"})
    with pytest.raises(ValueError, match=rf"m.jsonl: 1 of 3 lines cannot be used:\n  {message}"):
        Manifest(path)


def test_accents_that_are_encoded_otherwise(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", {"id": "caf\u00e9", "path": "a.wav"}, {"id": "cafe\u0301", "path": "b.wav"})
    with pytest.raises(ValueError, match=r"line 2: the id 'cafe\\u0301' is 'caf\\xe9' with accents encoded otherwise"):
        Manifest(path)


def test_ids_that_other_systems_can_have(tmp_path: Path) -> None:
    names = ["Maße", "Masse", "console", "com10", "a-b+c=d,e;f'g(h)[i]{j}!#$%&@^`~", "日本語", "a b", "k.com1"]
    manifest = Manifest(write(tmp_path / "m.jsonl", *({"id": name, "path": "a.wav"} for name in names)))
    assert [item.id for item in manifest] == names
    assert [manifest.find(name) for name in names] == list(range(len(names)))
    assert manifest.find("CONSOLE") is None  # an id of an earlier run, spelt differently


def test_segments(tmp_path: Path) -> None:
    """Segments without ids get NeMo's names, with start and end in milliseconds."""
    rows = [
        {"audio_filepath": "a.wav", "duration": 5.29},
        {"audio_filepath": "b.wav", "offset": 0, "duration": 2},
        {"audio_filepath": "b.wav", "offset": 2.0, "duration": 1.0995},
        {"audio_filepath": "b.wav", "offset": 3.1},
        {"audio_filepath": "b.wav", "offset": None, "duration": None},
        {"id": "x", "audio_filepath": "b.wav", "offset": 2.0, "duration": 1.0995},
    ]
    manifest = Manifest(write(tmp_path / "m.json", *rows))
    assert [(item.id, item.offset, item.duration) for item in manifest] == [
        ("a", 0.0, 5.29), ("b_0_2000", 0.0, 2.0), ("b_2000_3100", 2.0, 1.0995), ("b_3100", 3.1, None),
        ("b", 0.0, None), ("x", 2.0, 1.0995),
    ]  # fmt: skip
    assert manifest.has_input(2, -1, -1, 2.0, 1.0995)
    for other in ((2.0, None), (0.0, 1.0995), (2.0, 1.0996)):
        assert not manifest.has_input(2, -1, -1, *other)
    with pytest.raises(ValueError, match=r"line 2: the id 'b_2000' is that of .*b.wav', too\n.*write ids"):
        Manifest(write(tmp_path / "m.json", *[{"path": "b.wav", "offset": 2.0}] * 2))


def test_ids_of_paths(tmp_path: Path) -> None:
    for folder in ("day1", "day2/x"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a17.wav").write_bytes(b"1")
    assert [item.id for item in Manifest(tmp_path, ids="path")] == ["day1_a17", "day2_x_a17"]
    rows = ["/data/a.wav", "../b/a.wav", "./c/a.wav", "a.wav"]
    given = [{"path": row} for row in rows] + [{"id": "y", "path": "a/a.wav"}, {"path": "d/a.wav", "offset": 1}]
    path = write(tmp_path / "m.jsonl", *given)
    assert [item.id for item in Manifest(path, ids="path")] == ["data_a", "b_a", "c_a", "a", "y", "d_a_1000"]
    with pytest.raises(ValueError, match="ids is 'paths', expected name or path"):
        Manifest(path, ids="paths")  # type: ignore[arg-type]


def test_ids_with_dots(tmp_path: Path) -> None:
    manifest = Manifest(write(tmp_path / "m.jsonl", {"path": "a.wav"}, {"path": "b.1.wav"}, {"path": "c.2.wav"}))
    assert [item.id for item in manifest] == ["a", "b.1", "c.2"]
    assert manifest.dotted == "b.1"


def test_the_first_bad_rows_of_many(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", {"path": "a.wav"}, *["{"] * 25, {"path": "b.wav"})
    with pytest.raises(
        ValueError, match=r"25 of 27 lines cannot be used:\n  line 2: .*\n(.*\n){8}  line 11: .*\n  and 15 more$"
    ):
        Manifest(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"path": "a.wav"}\n{"path": "\xff.wav"}\n' + b"x" * (3 << 20) + b'\n{"path": "c.wav"}\n')
    with pytest.raises(
        ValueError, match=r"2 of 4 lines .*\n  line 2: byte 11 is not UTF-8\n  line 3: it is longer than"
    ):
        Manifest(path)


def test_bad_tables(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("id,path\na,a.wav\nb\nc,c.wav,x\nd,d\0.wav\n")
    with pytest.raises(
        ValueError,
        match=r"3 of 4 lines .*\n  line 3: it has 1 column, .*\n  line 4: it has 3 .*\n  line 5: it holds a null",
    ):
        Manifest(path)
    path.write_text("\na,b\n")
    with pytest.raises(ValueError, match="the first line has the columns of nothing; expected path"):
        Manifest(path)
    path.write_text("path,Path\na.wav,b.wav\n")
    with pytest.raises(ValueError, match="the first line has the column path twice"):
        Manifest(path)
    path.write_text("a,b\nc,d\n")
    with pytest.raises(ValueError, match="the first line has the columns a, b; expected path, or audio_filepath"):
        Manifest(path)
    path.write_text("")
    with pytest.raises(ValueError, match="holds no rows"):
        Manifest(path)


OPEN = 'line 2: a quote (") opens there, and is not closed to the end of the file'
QUOTES = {
    "open to the end": ('a.wav,"un\nclosed\nb.wav,x\n', [OPEN]),
    "open in the last line": ('a.wav,x\nb.wav,"x\n', [OPEN.replace("2", "3")]),
    "open to the next quote": (
        'a.wav,"un\nb.wav,y\nc.wav,"z"\nd.wav,x\n',
        ['line 2: a quote (") in it closes before the end of its field, 2 lines further down: double those inside'],
    ),
    "closed early": ('a.wav,"x" y\nb.wav,x\n', ['line 2: a quote (") in it closes before the end of its field: d']),
    "a long field": ('a.wav,"' + 140_000 * "x" + '"\nb.wav,x\n', ["line 2: a field is longer than 131,072 characters"]),
    "a long open one": (
        'a.wav,"' + 3000 * ("x" * 60 + "\n"),
        ["line 2: a field is longer than 131,072 characters: a quote may not be closed", "lines cannot be used"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(QUOTES))
def test_quotes_swallow_no_rows(tmp_path: Path, name: str) -> None:
    text, messages = QUOTES[name]
    (tmp_path / "m.csv").write_text("path,text\n" + text)
    with pytest.raises(ValueError, match=r"m\.csv: ") as caught:
        Manifest(tmp_path / "m.csv")
    for message in messages:
        assert message in str(caught.value)


def test_a_quote_in_a_field_without_quotes(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('path,text\nb".wav,6" nails\nc.wav,"a ""b"""\n')
    with pytest.raises(ValueError, match=r'line 2: the id, taken from its name, .* holds "'):
        Manifest(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_text('path,text\nb.wav,6" nails\nc.wav,"a ""b"""\n')
    assert [item.id for item in Manifest(tmp_path / "m.csv")] == ["b", "c"]


def test_spaces_and_capitals_in_a_table(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b"ID , Path, offset,Duration\r\n a , b.wav , 1.5, 2e0\r\n ,c.wav,, \r\n")
    assert [(item.id, item.path.name, item.offset, item.duration) for item in Manifest(path)] == [
        ("a", "b.wav", 1.5, 2.0), ("c", "c.wav", 0.0, None),
    ]  # fmt: skip
    path.write_text("path,offset\na.wav,1s\nb.wav,nan\nc.wav,-1\n")
    with pytest.raises(ValueError, match=r"(?s)line 2: its offset is '1s', .*line 3: its offset is nan.*line 4: .* -1"):
        Manifest(path)


OTHER_FILES = {
    "semicolons": ("m.csv", b"id;path\na;b.wav\n", "separates its columns with semicolons, expected commas"),
    "tabs": ("m.csv", b"id\tpath\na\tb.wav\n", "separates its columns with tabs, as in .tsv, expected commas"),
    "commas": ("m.tsv", b"id,path\na,b.wav\n", "separates its columns with commas, expected tabs, as in .tsv"),
    "CR": ("m.csv", b"id,path\ra,b.wav\r", "ends its lines with CR alone, expected LF"),
    "CR in JSON": ("m.jsonl", b'{"path": "a.wav"}\r{"path": "b.wav"}\r', "ends its lines with CR alone, expected LF"),
    "UTF-16": ("m.csv", "id,path\n".encode("utf-16"), "is in UTF-16: save it as UTF-8"),
    "Latin-1": ("m.csv", b"path,\xe9\n", "line 1: byte 6 is not UTF-8"),
    "a list": ("m.json", b'[\n {"path": "a.wav"},\n {"path": "b.wav"}\n]\n', "is a list: write one object a line"),
    "a list in a line": ("m.json", b'[{"path": "a.wav"}]', "is a list: write one object a line"),
    "an object": ("m.json", b'{\n  "path": "a.wav"\n}\n', "has objects of several lines: write one object a line"),
    "a tar file": ("m.tar", b"", r"is a tar file, which is no manifest: unpack it \(mkdir FOLDER; tar -xf .*m.tar -C"),
    "a tar.gz": ("m.tar.gz", b"", "is a tar file, which is no manifest"),
    "audio": ("m.wav", b"", "does not end as a manifest does: .*; a file by itself is done by decode, encode"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(OTHER_FILES))
def test_files_that_are_written_otherwise(tmp_path: Path, name: str) -> None:
    file, content, message = OTHER_FILES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Manifest(tmp_path / file)


def test_standard_input_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="the manifest is -, expected a file or a folder"):
        Manifest("-")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    path = write(tmp_path / "m.jsonl", {"path": "~/a.wav"}, {"path": "~b.wav"})
    assert [item.path for item in Manifest(path)] == [tmp_path / "home/a.wav", tmp_path / "~b.wav"]


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
    with pytest.raises(ValueError, match=r"the folder .* holds no audio and no .npy or .npz files$"):
        Manifest(tmp_path / "folder")
    (tmp_path / "folder" / "a.json").write_text("[]")
    with pytest.raises(ValueError, match=r"files; .json and .safetensors files of tokens are taken from a manifest"):
        Manifest(tmp_path / "folder")
    (tmp_path / "folder" / "000000.tar").write_text("")
    with pytest.raises(ValueError, match=r"files; tar files are not read: unpack them"):
        Manifest(tmp_path / "folder")
    for name in ("b.npy", "a.flac", "c.npy"):
        (tmp_path / "folder" / name).write_text("")
    mixes = (
        "mixes kinds: audio in 'a.flac' and tokens in 'b.npy'; name a folder of one kind, or write a manifest of each"
    )
    with pytest.raises(ValueError, match=mixes):
        Manifest(tmp_path / "folder")


@pytest.mark.skipif(os.name == "nt", reason="not everybody may make links there")
def test_links_to_folders(tmp_path: Path) -> None:
    """Links to outside folders are followed once; links to folders that are already covered, and loops, are not."""
    folder, disk = tmp_path / "in", tmp_path / "disk"
    for path in (folder / "day1/a.wav", disk / "b.wav", disk / "deep/c.wav", disk / ".hidden/d.wav"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    for link, target in (
        ("day2", disk), ("deep", disk / "deep"), ("again", folder / "day1"), ("up", tmp_path), ("self", folder),
        (".secret", disk), ("gone", tmp_path / "nothing"),
    ):  # fmt: skip
        (folder / link).symlink_to(target)
    (disk / "loop").symlink_to(disk)
    (disk / "back").symlink_to(folder)
    assert [str(item.path.relative_to(folder)) for item in Manifest(folder)] == [
        "day1/a.wav",
        "day2/b.wav",
        "deep/c.wav",
    ]
    (tmp_path / "link").symlink_to(folder)
    assert len(Manifest(tmp_path / "link")) == 3


def test_names_that_are_there_twice_in_one_folder(tmp_path: Path) -> None:
    """The error does not suggest ids from paths, since both files are in one folder."""
    for name in ("1.wav", "1.mp3"):
        (tmp_path / name).write_bytes(b"1")
    with pytest.raises(ValueError, match=r"the id '1' .*\n  rename them; or write a manifest") as raised:
        Manifest(tmp_path)
    assert "path" not in str(raised.value).rpartition("\n")[2]


def test_names_in_a_folder_that_are_there_twice(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.wav").write_bytes(b"1")
    with pytest.raises(
        ValueError, match=r"1 of 2 files cannot be used:\n  'b/1.wav': the id '1' .*\n  pass ids=\"path\""
    ):
        Manifest(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")).write_bytes(b"1")
    with pytest.raises(ValueError, match=r"1 of 1 file cannot be used:\n.*not UTF-8.*\n  rename them"):
        Manifest(tmp_path)
    path = write(tmp_path / "m.jsonl", {"id": "a", "path": os.fsdecode(b"\xff.wav")})
    manifest = Manifest(path)
    assert manifest[0].size == 1
    assert manifest[0].path.read_bytes() == b"1"
