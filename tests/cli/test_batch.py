"""Tests of ``vocos-onnx batch``: what it accepts, prints and returns."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.helpers import DATA, ROOT, tone
from vocos_onnx import VocosONNX, load_tokens, save_tokens
from vocos_onnx.cli import main

MODEL, ENCODER = str(DATA / "encodec.onnx"), str(DATA / "encoder.onnx")


def run(*args: object) -> int:
    return main([*map(str, args), "--workers", "1"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with tokens/, mels/, recordings/ and their manifests."""
    monkeypatch.chdir(tmp_path)
    for name in ("tokens", "mels", "recordings"):
        Path(name).mkdir()
    vocos, random = VocosONNX(MODEL), np.random.default_rng(0)
    for n in range(3):
        save_tokens(f"tokens/{n}.npz", random.integers(1024, size=(2, 10 + n)), vocos)
        np.save(f"mels/{n}.npy", random.normal(-5, 1, (8, 20)).astype(np.float32))
        soundfile.write(f"recordings/{n}.flac", tone(440, 24_000, 0.1 + n / 10), 24_000)
    Path("tokens.jsonl").write_text(
        "".join(json.dumps({"id": f"t{n}", "path": f"tokens/{n}.npz"}) + "\n" for n in range(3))
    )
    return tmp_path


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir() if path.name not in (".lock", "journal.jsonl"))


def test_tokens_to_audio(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("batch", "tokens.jsonl", "out", "--model", MODEL) == 0
    printed = capsys.readouterr()
    assert re.fullmatch(r"out: 3 of 3 items are done: 0\.4 s of audio in \d\.\d s, [\d.]+ x real time\n", printed.out)
    assert printed.err == ""
    assert names("out") == ["t0.wav", "t1.wav", "t2.wav"]
    assert soundfile.info("out/t1.wav").frames == 11 * 320


def test_mels_to_audio(folder: Path) -> None:
    assert run("batch", "mels", "out", "--model", DATA / "mel.onnx", "--format", "flac") == 0
    assert names("out") == ["0.flac", "1.flac", "2.flac"]


def test_audio_to_tokens_and_to_audio(folder: Path) -> None:
    pair = ("--encoder", ENCODER, "--bandwidth", "1.5")
    assert run("batch", "recordings", "tokens out", *pair) == 0
    assert names("tokens out") == ["0.npz", "1.npz", "2.npz"]
    assert load_tokens("tokens out/2.npz").samples == 7200
    assert run("batch", "recordings", "copies", *pair, "--model", MODEL, "--format", "wav") == 0
    assert names("copies") == ["0.wav", "1.wav", "2.wav"]
    assert soundfile.info("copies/2.wav").frames == 7200


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("tokens/1.npz").write_bytes(b"nonsense")
    assert run("batch", "tokens", "out", "--model", MODEL, "--json") == 1
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    told = ("items", "done", "before", "others", "failed", "kept", "alike", "warned", "warning", "replaced", "share")
    assert {name: summary[name] for name in told} == {
        "items": 3, "done": 2, "before": 0, "others": 0, "failed": 1, "kept": 0, "alike": 1, "warned": 0,
        "warning": None, "replaced": 0, "share": 1,
    }  # fmt: skip
    assert summary["reason"].startswith(f"1: cannot read {folder / 'tokens' / '1.npz'}")
    text = (ROOT / "docs" / "guides" / "corpora.md").read_text(encoding="utf-8")
    assert {key for keys in re.findall(r"^\| (`.*?) \|", text, re.M) for key in re.findall(r"`(\w+)`", keys)} >= {
        *summary
    }
    assert summary["errors"] == str(folder / "out" / "errors.jsonl")
    assert summary["hours"] == pytest.approx(22 * 320 / 24_000 / 3600)


@pytest.mark.skipif(os.name == "nt", reason="no limit on the size of files")
def test_json_of_a_job_that_stops(folder: Path) -> None:
    """On a full disk, say, it still prints the summary, and the reason on stderr."""
    import resource

    save_tokens("tokens/long.npz", np.zeros((2, 200), np.int64), VocosONNX(MODEL))
    command = [sys.executable, "-m", "vocos_onnx", "batch", "tokens", "out", "--model", MODEL, "--json"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))

    stopped = subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=limit)
    assert stopped.returncode == 2
    summary = json.loads(stopped.stdout)
    assert (summary["items"], summary["failed"]) == (4, 0)
    done = f"{summary['done']} of 4 items are done; make room, and go on with the same command and --resume\n"
    assert stopped.stderr == f"vocos-onnx: error: cannot write {folder / 'out' / 'long.wav'}: file too large. {done}"
    refused = subprocess.run([*command, "--format", "npz"], capture_output=True, text=True, timeout=60)
    assert (refused.returncode, refused.stdout) == (2, "")  # it did not start


def test_items_that_fail(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are counted and named, and tried again with --resume."""
    with Path("tokens.jsonl").open("a") as file:
        file.write('{"path": "nothing.npz"}\n')
    assert run("batch", "tokens.jsonl", "out", "--model", MODEL) == 1
    printed = capsys.readouterr()
    assert re.search(r"^out: 3 of 4 items are done: 0\.4 s of audio in .* x real time; 1 failed$", printed.out, re.M)
    assert printed.err == (
        f"vocos-onnx: 1 of 4 items failed, nothing: no file {folder / 'nothing.npz'}\n"
        "vocos-onnx: out/errors.jsonl has it, too, and --resume tries it again\n"
    )
    error = json.loads(Path("out/errors.jsonl").read_text())
    assert error == {
        "id": "nothing",
        "path": str(folder / "nothing.npz"),
        "error": f"no file {folder / 'nothing.npz'}",
    }
    assert run("batch", "tokens.jsonl", "out", "--model", MODEL, "--resume") == 1
    Path("nothing.npz").write_bytes(Path("tokens/0.npz").read_bytes())
    capsys.readouterr()
    assert run("batch", "tokens.jsonl", "out", "--model", MODEL, "--resume") == 0
    assert "out: 4 of 4 items are done, 1 of them in this run: 0.1 s of audio in " in capsys.readouterr().out
    assert not Path("out/errors.jsonl").exists()
    assert run("batch", "tokens.jsonl", "out", "--model", MODEL, "--resume") == 0
    assert capsys.readouterr() == ("out: nothing to do: all 4 items are done\n", "")
    Path("nothing.npz").unlink()
    Path("tokens/0.npz").unlink()
    assert run("batch", "tokens.jsonl", "out", "--model", MODEL, "--resume", "--workers", "1") == 1
    printed = capsys.readouterr()
    assert printed.out == "out: 2 of 4 items are done; 2 failed\n"
    assert printed.err.splitlines() == [
        f"vocos-onnx: 2 of 4 items failed, all for the same reason: t0: no file {folder / 'tokens' / '0.npz'}",
        "vocos-onnx: out/errors.jsonl has each with its reason, and --resume tries them again; 2 of them keep the "
        "output of an earlier run",
    ]


def test_why_items_fail(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The most frequent reason is printed, and how many items failed for it."""
    assert run("batch", "tokens", "out", "--model", DATA / "mel.onnx", "--workers", "1") == 1  # keeps the order
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"vocos-onnx: 3 of 3 items failed, all for the same reason: 2: .*mel.*", first), first
    assert second == "vocos-onnx: out/errors.jsonl has each with its reason, and --resume tries them again"
    assert run("batch", "tokens", "out", "--model", MODEL, "--resume") == 0  # nothing was done with the wrong model
    assert names("out") == ["0.wav", "1.wav", "2.wav"]
    for n, data in enumerate((b"", b"nonsense")):
        Path(f"tokens/{n}.npz").write_bytes(data)
    capsys.readouterr()
    assert run("batch", "tokens", "other", "--model", MODEL, "--workers", "1") == 1
    assert "2 of 3 items failed, the first is 1: cannot read " in capsys.readouterr().err
    Path("tokens/2.npz").write_bytes(b"nonsense")
    assert run("batch", "tokens", "third", "--model", MODEL) == 1
    assert "3 of 3 items failed, 2 of them for the same reason: " in capsys.readouterr().err


def test_another_manifest_for_the_same_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("batch", "tokens.jsonl", "out", "--model", MODEL) == 0
    Path("tokens.jsonl").write_text('{"id": "t1", "path": "tokens/1.npz"}\n')
    capsys.readouterr()
    assert run("batch", "tokens.jsonl", "out", "--model", MODEL, "--resume") == 0
    assert capsys.readouterr().out == (
        "out: nothing to do: the item is done; 2 others are done that are not in this manifest\n"
    )
    assert names("out") == ["t0.wav", "t1.wav", "t2.wav"]


def test_ids_of_paths(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two inputs of the same name are refused, and the message names the option that tells them apart."""
    for n in range(2):
        Path(f"days/{n}").mkdir(parents=True)
        Path(f"days/{n}/a.npz").write_bytes(Path(f"tokens/{n}.npz").read_bytes())
    assert run("batch", "days", "out", "--model", MODEL) == 2
    assert "\n  pass --ids path for ids that begin with the folders" in capsys.readouterr().err
    assert run("batch", "days", "out", "--model", MODEL, "--ids", "path", "--format", ".FLAC") == 0
    assert names("out") == ["0_a.flac", "1_a.flac"]


def test_more_workers_than_cpus(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "tokens", "out", "--model", MODEL, "--workers", "500"]) == 0
    assert re.fullmatch(
        r"vocos-onnx: --workers is 500, and this process may use \d+ CPUs?: more workers than that take longer\n",
        capsys.readouterr().err,
    )


def test_warnings_are_told_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(3):
        np.save(f"tokens/{n}.npy", load_tokens(f"tokens/{n}.npz").codes)
        Path(f"tokens/{n}.npz").unlink()
    assert run("batch", "tokens", "out", "--model", MODEL) == 0
    assert capsys.readouterr().err == (
        "vocos-onnx: warning: 2: it names no codec, and is decoded as tokens of encodec_24khz\n"
        "vocos-onnx: 3 of 3 items have warnings: out/journal.jsonl has each\n"
    )
    for n in range(2):
        Path(f"tokens/{n}.npy").unlink()
    assert run("batch", "tokens", "one", "--model", MODEL) == 0
    assert capsys.readouterr().err.endswith("vocos-onnx: 1 of 1 item has a warning: one/journal.jsonl has it\n")


def test_what_the_package_logs_is_in_the_journal(folder: Path) -> None:
    """Log lines are not printed on the workers' standard streams."""
    for n in range(3):
        np.save(f"mels/{n}.npy", np.load(f"mels/{n}.npy")[:, :8])
    command = [sys.executable, "-m", "vocos_onnx", "batch", "mels", "out", "--model", str(DATA / "mel.onnx")]
    done = subprocess.run([*command, "--workers", "2"], capture_output=True, text=True, timeout=60)
    text = "the mels have as many frames as bands, 8, and are read as (C, T): if they are (T, C), transpose them "
    assert re.sub(": [012]: ", ": ID: ", done.stderr) == (
        f"vocos-onnx: warning: ID: {text}(mels.T) before they are saved, or name their system with --mels-from (in "
        "Python mels_from=)\nvocos-onnx: 3 of 3 items have warnings: out/journal.jsonl has each\n"
    )
    rows = [json.loads(line) for line in Path("out/journal.jsonl").read_text().splitlines()[1:]]
    assert [len(row["warnings"]) for row in rows] == [1, 1, 1]


REFUSED = {
    "another job": (["tokens", "other", "--format", "flac"], "another job.*format is 'flac' here and 'wav' there"),
    "no --resume": (["tokens", "other"], "other holds a job of these settings: pass --resume"),
    "a folder with files": (["tokens", "recordings"], "recordings holds 0.flac, and no journal of a job"),
    "no manifest": (["nothing.jsonl", "new"], "no manifest nothing.jsonl"),
    "no folder": (["nothing", "new"], "no manifest nothing; expected"),
    "unreadable lines": (["bad.jsonl", "new"], r"2 of 3 lines .*\n  line 2: it is no JSON .*\n  line 3: it is"),
    "ids that are there twice": (["twice.jsonl", "new"], "line 2: the id '0' is that of '.*tokens/0.npz', too"),
    "ids with /": (["slash.jsonl", "new"], "line 1: its id '../0' holds a /"),
    "mixed kinds": (["mixed.jsonl", "new"], "mixes kinds: tokens in line 1 .* and audio in line 2"),
    "a format of tokens": (["recordings", "new", "--format", "m4a"], "--format is 'm4a', expected wav, flac, .*, npz"),
    "a format of audio": (["tokens", "new", "--format", "npz"], "--format is 'npz', expected wav, .*tokens or mels"),
    "a shard size": (["tokens", "new", "--shard-size", "0"], "--shard-size is 0, expected 1 to 1,000,000 items\n"),
    "no workers": (["tokens", "new", "--workers", "0"], "--workers is 0, expected 1 or more\n"),
    "a model of no use": (["recordings", "new", "--model", MODEL], "--model is .* audio to tokens takes none: "
                          "leave it out, or pass --format wav, .* for copies of the audio"),
    "mels of audio": (["recordings", "new", "--mels-from", "f5"], "--mels-from is 'f5', and audio to tokens takes"),
    "a bandwidth": (["tokens", "new", "--bandwidth", "7"], "bandwidth is 7.0, expected one of"),
    "mels of tokens": (["tokens", "new", "--mels-from", "f5"], "this model decodes tokens"),
    "no model": (["tokens", "new", "--model", "none.onnx"], "none.onnx"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    Path("bad.jsonl").write_text('{"path": "tokens/0.npz"}\n{"path"\n[]\n')
    Path("twice.jsonl").write_text('{"path": "tokens/0.npz"}\n{"path": "mels/0.npy"}\n')
    Path("slash.jsonl").write_text('{"id": "../0", "path": "tokens/0.npz"}\n')
    Path("mixed.jsonl").write_text('{"path": "tokens/0.npz"}\n{"path": "recordings/1.flac"}\n')
    assert run("batch", "tokens", "other", "--model", MODEL) == 0
    capsys.readouterr()
    args, message = REFUSED[name]
    model = [] if "--model" in args or "recordings" in args else ["--model", MODEL]
    workers = [] if "--workers" in args else ["--workers", "1"]
    assert main(["batch", *args, *model, *workers]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("vocos-onnx: error: ")
    assert all(line.startswith("  ") for line in printed.err.splitlines()[1:])
    assert re.search(message, printed.err), printed.err
    assert not Path("new").exists()


def test_lines_in_place_of_a_bar(folder: Path) -> None:
    """Without a terminal a line is printed each minute, so none for a job this short."""
    command = [sys.executable, "-m", "vocos_onnx", "batch", "tokens", "out", "--model", MODEL, "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def on_terminal(columns: int, *args: str) -> list[str]:
    """Returns what the command shows on a terminal, one entry each time it redraws the line."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "vocos_onnx", "batch", *args, "--model", MODEL, "--workers", "1"]
    environment = {**os.environ, "COLUMNS": str(columns)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                block = os.read(ours, 1 << 16)
            except OSError:
                break
            if not block:
                break
            shown += block
        assert process.wait() == 0
    os.close(ours)
    return shown.decode().replace("\r\n", "\n").split("\r")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals")
def test_the_bar(folder: Path) -> None:
    """The essentials fit each width, even when a job is resumed; the bar is erased at the end."""
    pages = {
        100: r"\[[#.]{30}\] +\d+% \d+ of \d+(, \d+ now)?  [\d.]+ s of audio  [\d.]+ x  [\d.]+ s left",
        80: r"\[[#.]{16,24}\] +\d+% \d+ of \d+(, \d+ now)?  [\d.]+ s of audio  [\d.]+ x  [\d.]+ s left",
        40: r"\[[#.]{6,}\] +\d+% \d+ of \d+  (\d+ x  )?[\d.]+ s left",
    }
    count = 3
    for columns, page in pages.items():
        for n in range(150):
            Path(f"tokens/more{columns}-{n}.npz").write_bytes(Path("tokens/0.npz").read_bytes())
        shown = on_terminal(columns, "tokens", "out", "--resume")
        before, count = count, count + 150
        assert any(f"% {0 if columns == 100 else before} of {count}" in text for text in shown), shown
        assert any(re.fullmatch(page, text) for text in shown), (columns, shown)
        assert max(map(len, shown)) < columns
        assert shown[-1].strip() == ""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals")
def test_the_first_warning_is_above_the_bar(folder: Path) -> None:
    for n in range(200):
        np.save(f"tokens/{n}.npy", load_tokens("tokens/0.npz").codes)
    for n in range(3):
        Path(f"tokens/{n}.npz").unlink()
    shown = on_terminal(100, "tokens", "out")
    index = next(index for index, text in enumerate(shown) if "\n" in text)
    assert re.fullmatch(r"vocos-onnx: warning: \d+: it names no codec.*\n", shown[index]), shown
    assert " of 200" in shown[index + 1]
    assert shown[-1] == "vocos-onnx: 200 of 200 items have warnings: out/journal.jsonl has each\n"
