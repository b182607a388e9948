"""Models from a local hub: downloads, the cache of converted models, offline use, errors.

The conversion is a stand-in (tests/hub/standin.py); everything else is the real code, in separate processes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import DATA, ROOT
from tests.hub.server import Hub
from vocos_onnx import save_audio
from vocos_onnx.model.cache import file_sha256
from vocos_onnx.model.registry import find_known

pytest.importorskip("huggingface_hub")
pytest.importorskip("platformdirs")

COMMIT_1, COMMIT_2 = "1" * 40, "2" * 40
REPO, ENCODER, OFFICIAL = "acme/vocos", "acme/encodec", "charactr/vocos-encodec-24khz"
VOCODER_FILES = {"config.yaml": b"tiny: encodec", "pytorch_model.bin": b"weights", "README.md": b"x"}
ENCODER_FILES = {
    "config.json": b'{"model_type": "encodec"}', "model.safetensors": b"encoder's weights", "pytorch_model.bin": b"y"
}  # fmt: skip


def repository(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@dataclass
class User:
    """One user's caches, and the processes that use them."""

    home: Path
    url: str
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        return self.home / "vocos-onnx"

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
        environment = {
            **kept,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "HF_HOME": str(self.home / "hf"),
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "VOCOS_ONNX_CACHE": str(self.cache),
            "CONVERSIONS": str(self.home / "conversions"),
            **self.variables,
            **variables,
        }
        self.home.mkdir(exist_ok=True)
        command = [sys.executable, *(() if arguments[0] == "-c" else ("-m", "tests.hub.standin")), *arguments]
        return subprocess.Popen(
            command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def open(self, *cases: dict[str, Any], **variables: str) -> tuple[list[list[str]], str]:
        """The result of each case, and the log."""
        process = self.start("run", json.dumps(cases), **variables)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return [json.loads(line) for line in out.splitlines()], err

    def ok(self, *cases: dict[str, Any], **variables: str) -> list[list[str]]:
        found, err = self.open(*cases, **variables)
        assert [kind for kind, *_ in found] == ["ok"] * len(cases), (found, err)
        return found

    def error(self, case: dict[str, Any], kind: str = "FileNotFoundError", **variables: str) -> str:
        (found,), _ = self.open(case, **variables)
        assert found[0] == kind, found
        return found[1]

    def cli(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        process = self.start("cli", *arguments, **variables)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    @property
    def conversions(self) -> int:
        log = self.home / "conversions"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def models(self) -> list[Path]:
        return sorted(self.cache.glob("models/*/model.onnx"))


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    known = [find_known(name) for name in (OFFICIAL, "facebook/encodec_24khz")]
    files = {REPO: {COMMIT_1: VOCODER_FILES}, ENCODER: {COMMIT_1: ENCODER_FILES}}
    for model, content in zip(known, (VOCODER_FILES, ENCODER_FILES), strict=True):
        assert model is not None
        files[model.id] = {model.revision: content}
    return Hub(
        {
            repo: {commit: repository(tmp_path / "hub" / repo / commit, content) for commit, content in each.items()}
            for repo, each in files.items()
        },
        {repo: {"main": next(iter(each))} for repo, each in files.items()},
    )


@pytest.fixture
def user(hub: Hub, tmp_path: Path) -> Iterator[User]:
    with hub.serve() as url:
        yield User(tmp_path / "user", url)


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    save_audio(path, np.random.default_rng(0).normal(0, 0.1, 9000).astype(np.float32), 24_000)
    return path


def add_commit(hub: Hub, tmp_path: Path, files: dict[str, bytes], repo: str = REPO) -> None:
    hub.repositories[repo][COMMIT_2] = repository(tmp_path / "hub" / repo / COMMIT_2, files)
    hub.refs[repo]["main"] = COMMIT_2


def test_the_official_models_in_one_command(hub: Hub, user: User, speech: Path, tmp_path: Path) -> None:
    """The command works with a cold cache, with a warm one, and twice concurrently without a network."""
    known = find_known(OFFICIAL)
    assert known is not None

    def line(output: str) -> list[str]:
        names = ["--model", OFFICIAL, "--encoder", "facebook/encodec_24khz"]
        return ["resynth", str(speech), str(tmp_path / output), *names, "--bandwidth", "1.5"]

    done = user.cli(*line("cold.wav"))
    assert done.returncode == 0, done.stderr
    assert user.conversions == 2
    downloaded = [path for command, path, status in hub.requests if command == "GET" and "/resolve/" in path]
    assert {path.split("/")[-1] for path in downloaded} == {
        "config.yaml", "pytorch_model.bin", "config.json", "model.safetensors"
    }  # fmt: skip
    assert len(downloaded) == 4  # nothing twice, and nothing unnecessary such as the encoder's pytorch_model.bin
    assert all(known.revision in path for path in downloaded if OFFICIAL in path)
    hub.requests.clear()
    done = user.cli(*line("warm.wav"))
    assert done.returncode == 0, done.stderr
    assert not hub.requests  # the registry pins the commits, so the cache is up to date
    two = [user.start("cli", *line(f"{i}.wav"), HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9") for i in (1, 2)]
    for process in two:
        err = process.communicate(timeout=120)[1]
        assert process.returncode == 0, err
    assert user.conversions == 2
    for output in ("warm.wav", "1.wav", "2.wav"):
        assert (tmp_path / output).read_bytes() == (tmp_path / "cold.wav").read_bytes()


def test_two_processes_at_once_with_a_cold_cache(user: User) -> None:
    processes = [
        user.start("run", json.dumps([{"model": REPO}, {"model": ENCODER, "encoder": True}]), SECONDS_TO_CONVERT="0.5")
        for _ in range(3)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert [json.loads(line)[0] for line in out.splitlines()] == ["ok", "ok"], (out, err)
    assert len(user.models()) == 2
    assert sorted(path.name for path in (user.cache / "models").iterdir()) == sorted(
        path.parent.name for path in user.models()
    )  # no temporary folder is left


def test_what_was_downloaded_is_used_again(hub: Hub, user: User) -> None:
    """A cached model takes one request if the newest commit is wanted, and none for a fixed commit or offline."""
    (first,) = user.ok({"model": REPO})
    assert first[1] == f"<VocosONNX {REPO}: encodec_24khz, 24000 Hz, float32, CPUExecutionProvider>"
    assert Path(first[2]) in user.models()
    hub.requests.clear()
    assert user.ok({"model": REPO})[0][2] == first[2]
    assert [path for _, path, _ in hub.requests if REPO in path] == [f"/api/models/{REPO}"]
    hub.requests.clear()
    sha256 = file_sha256(hub.repositories[REPO][COMMIT_1] / "pytorch_model.bin")
    cases: list[dict[str, Any]] = [
        {"repo_or_folder": REPO, "revision": COMMIT_1},
        {"repo_or_folder": REPO, "sha256": sha256.upper()},
        {"repo_or_folder": REPO, "local_files_only": True},
    ]
    user.ok(*cases)
    user.ok({"model": REPO}, HF_HUB_OFFLINE="1")
    assert not hub.requests
    user.ok({"model": REPO}, HF_ENDPOINT="http://127.0.0.1:9")  # the request fails
    assert user.conversions == 1
    # without the hub client's cache, only the converted model is left, as in a small image
    (user.home / "hf").rename(user.home / "elsewhere")
    user.ok({"model": REPO}, HF_HUB_OFFLINE="1")
    # without our cache, the model is converted again from the hub client's
    (user.home / "elsewhere").rename(user.home / "hf")
    shutil.rmtree(user.cache)
    user.ok({"model": REPO}, HF_HUB_OFFLINE="1")
    assert user.conversions == 2
    message = user.error({"model": ENCODER, "encoder": True}, "UnreachableError", HF_HUB_OFFLINE="1")
    assert message.startswith(f"cannot get {ENCODER} from the hub: it is not in the cache, and downloads are forbidden")
    message = user.error({"model": ENCODER, "encoder": True}, "UnreachableError", HF_ENDPOINT="http://127.0.0.1:9")
    assert f"Without a network, run vocos-onnx models pull {ENCODER} where there is one, and copy the cache" in message


def test_a_new_commit(hub: Hub, user: User, tmp_path: Path) -> None:
    (before,) = user.ok({"model": REPO})
    add_commit(hub, tmp_path, {**VOCODER_FILES, "README.md": b"other"})
    (same,) = user.ok({"model": REPO})
    assert same[2] == before[2]  # the weights are the same
    assert user.conversions == 1
    hub.repositories[REPO]["3" * 40] = repository(
        tmp_path / "hub" / REPO / "3", {**VOCODER_FILES, "pytorch_model.bin": b"better weights"}
    )
    hub.refs[REPO]["main"] = "3" * 40
    (after,) = user.ok({"model": REPO})
    assert after[2] != before[2]
    (old, offline) = user.ok({"repo_or_folder": REPO, "revision": COMMIT_1}, {"pickle": before[3]}, HF_HUB_OFFLINE="1")
    assert old[2] == offline[2] == before[2]  # a pickle names the commit
    assert user.conversions == 2
    assert user.ok({"model": REPO}, HF_HUB_OFFLINE="1")[0][2] == after[2]


def test_a_pickle_elsewhere(user: User, tmp_path: Path) -> None:
    """Unpickled where the caches are empty, the model is downloaded there."""
    (made,) = user.ok({"repo_or_folder": REPO, "precision": "int8"})
    assert "int8" in made[1]
    other = User(tmp_path / "other", user.url)
    (found,) = other.ok({"pickle": made[3]})
    assert found[1] == made[1]
    assert Path(found[2]) in other.models()


def test_precisions(user: User) -> None:
    user.ok(*({"repo_or_folder": REPO, "precision": precision} for precision in ("float32", "int8")), {"model": REPO})
    user.ok({"model": REPO, "precision": "int8"})
    assert len(user.models()) == user.conversions == 2
    message = user.error({"repo_or_folder": REPO, "precision": "int4"}, "ValueError")
    assert message == "precision is 'int4', expected one of float32, int8, float16"
    message = user.error({"repo_or_folder": ENCODER, "precision": "int8", "encoder": True}, "ValueError")
    assert message == "precision is 'int8', expected float32: encoders have no other"


def test_an_onnx_file_wins(hub: Hub, user: User, tmp_path: Path) -> None:
    onnx = (DATA / "mel.onnx").read_bytes()
    add_commit(hub, tmp_path, {**VOCODER_FILES, "model.onnx": onnx, "other.onnx": onnx})
    hub.requests.clear()
    found = user.ok({"model": REPO}, {"repo_or_folder": REPO, "filename": "other.onnx", "revision": COMMIT_2})
    assert all("8000 Hz" in text for _, text, *_ in found)
    assert not user.conversions
    assert not [path for _, path, _ in hub.requests if path.endswith((".bin", ".yaml"))]
    user.ok({"pickle": found[0][3]}, {"pickle": found[1][3]}, {"model": REPO}, HF_HUB_OFFLINE="1")
    message = user.error({"repo_or_folder": REPO, "precision": "int8"}, "ValueError")
    assert message.startswith("precision is 'int8', and ")
    sha256 = file_sha256(DATA / "mel.onnx")
    user.ok({"repo_or_folder": REPO, "sha256": sha256}, HF_ENDPOINT="http://127.0.0.1:9")
    assert "has the sha256" in user.error({"repo_or_folder": REPO, "sha256": "0" * 64}, "ValueError")


def test_weights_of_another_name(hub: Hub, user: User, tmp_path: Path) -> None:
    """Weights with an unusual name are used only if they are the only ones."""
    add_commit(hub, tmp_path, {"config.yaml": b"tiny: mel", "Vocos.safetensors": b"weights"})
    assert "8000 Hz" in user.ok({"model": REPO})[0][1]
    hub.repositories[REPO][COMMIT_1] = repository(
        tmp_path / "two", {"config.yaml": b"tiny: mel", "a.safetensors": b"a", "b.safetensors": b"b"}
    )
    message = user.error({"repo_or_folder": REPO, "revision": COMMIT_1})
    assert "the repository has no such file; it holds a checkpoint, and no exported model" in message


def test_an_interrupted_download(hub: Hub, user: User, tmp_path: Path) -> None:
    weights = os.urandom(3_000_000)
    add_commit(hub, tmp_path, {**VOCODER_FILES, "pytorch_model.bin": weights})
    hub.stop_at = "pytorch_model.bin"
    process = user.start("run", json.dumps([{"model": REPO}]))
    deadline = time.monotonic() + 60
    while not list(user.home.rglob("*.incomplete")):
        assert time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    user.error({"model": REPO}, "UnreachableError", HF_HUB_OFFLINE="1")
    hub.stop_at = None
    user.ok({"model": REPO})
    assert user.conversions == 1


def test_an_interrupted_conversion(user: User) -> None:
    process = user.start("run", json.dumps([{"model": REPO}]), DIE_WHILE_CONVERTING="1")
    process.communicate(timeout=120)
    assert process.returncode == 9
    (left,) = (user.cache / "models").iterdir()
    assert left.name.startswith(".making-")
    assert list(left.iterdir())
    (found,) = user.ok({"model": REPO}, HF_HUB_OFFLINE="1")
    assert Path(found[2]).stat().st_size == (DATA / "encodec.onnx").stat().st_size
    os.utime(left, (0, 0))  # long ago
    user.ok({"repo_or_folder": REPO, "precision": "int8"})
    assert not left.exists()


@pytest.mark.parametrize("damage", ["shorter", "zeros", "empty", "no entry", "entry without sense"])
def test_a_damaged_entry(user: User, damage: str) -> None:
    """A damaged entry is never loaded; the model is converted again, without a network."""
    (made,) = user.ok({"model": REPO})
    path = Path(made[2])
    entry, size = path.with_name("entry.json"), path.stat().st_size
    match damage:
        case "shorter":
            os.truncate(path, size - 1)
        case "zeros":  # as some file systems do after a power failure
            path.write_bytes(bytes(size))
        case "empty":
            path.write_bytes(b"")
        case "no entry":
            entry.unlink()
        case "entry without sense":
            entry.write_text('{"size": []')
    found, log = user.open({"model": REPO}, {"model": REPO}, HF_HUB_OFFLINE="1")
    assert [kind for kind, *_ in found] == ["ok", "ok"], (found, log)
    assert path.read_bytes() == (DATA / "encodec.onnx").read_bytes()
    assert user.conversions == 2
    assert ("was damaged: it is converted again" in log) == (damage == "zeros")


def test_a_damaged_download(user: User) -> None:
    """A damaged download is detected by the sha256, which the hub client keeps in the file's name, and replaced."""
    user.ok({"model": REPO})
    shutil.rmtree(user.cache)
    (weights,) = user.home.rglob("pytorch_model.bin")
    blob = weights.resolve()
    blob.write_bytes(b"damaged")
    user.ok({"model": REPO})
    assert blob.read_bytes() == VOCODER_FILES["pytorch_model.bin"]


def test_a_cache_on_a_read_only_file_system(user: User) -> None:
    """Uses /proc, which not even root can write to."""
    found, log = user.open({"model": REPO}, {"model": REPO}, VOCOS_ONNX_CACHE="/proc/vocos-onnx")
    assert [kind for kind, *_ in found] == ["ok", "ok"]
    assert log.count(f"{REPO} is converted at each start, and not kept: /proc/vocos-onnx cannot be written") == 1
    assert user.conversions == 2
    assert not Path(found[0][2]).exists()


def test_a_read_only_cache(user: User) -> None:
    """Models in a read-only cache load without a warning. Root could write to it, so it drops its privileges first."""
    user.ok({"model": REPO})
    everything = [user.cache, *user.cache.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    code = """
import json, os, sys
from tests.hub.standin import run
if os.geteuid() == 0:
    run({"model": sys.argv[1]})  # what is imported and read of the package may be where only root can go
    os.seteuid(65534)
try:
    open(os.environ["VOCOS_ONNX_CACHE"] + "/new", "w")
except PermissionError:
    print(json.dumps(run({"model": sys.argv[1]})))
"""
    for folder in (user.home, *user.home.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o111)
    process = user.start("-c", code, REPO, HF_HUB_OFFLINE="1")
    out, err = process.communicate(timeout=120)
    for path in everything:
        path.chmod(0o755)
    assert json.loads(out)[0] == "ok", (out, err)
    assert not err
    assert user.conversions == 1


def test_a_full_disk(user: User) -> None:
    """A limit on the file size stands in for a full disk."""
    user.ok({"model": REPO})
    shutil.rmtree(user.cache)
    code = """
import json, resource, signal, sys
from tests.hub import standin
standin.install()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
print(json.dumps(standin.run({"model": sys.argv[1]})))
"""
    out, err = user.start("-c", code, REPO, HF_HUB_OFFLINE="1").communicate(timeout=120)
    kind, message = json.loads(out)
    assert kind == "OSError", (message, err)
    assert "the disk is full: there is no room for the converted model, in the cache or in " in message
    assert message.endswith("name another folder in VOCOS_ONNX_CACHE")
    assert not list((user.cache / "models").iterdir())


def test_errors(hub: Hub, user: User, tmp_path: Path) -> None:
    log_in = "log in with hf auth login (of older clients: huggingface-cli login), or set HF_TOKEN"
    message = user.error({"model": "acme/absent"})
    assert "There is no such repository, or it is private: check its name, or " + log_in in message
    message = user.error({"repo_or_folder": REPO, "revision": "v9"})
    assert message.startswith(f"cannot get {REPO} at revision v9 from the hub (RevisionNotFoundError")
    assert "has no such branch, tag or commit" in message
    hub.gated.add(REPO)
    message = user.error({"model": REPO})
    assert "Its owners grant access: ask for it at https://huggingface.co/acme/vocos, then " + log_in in message
    hub.gated.clear()
    message = user.error({"repo_or_folder": REPO, "sha256": "0" * 64}, "ValueError")
    assert "pytorch_model.bin has the sha256 " in message
    assert message.endswith(f"expected {'0' * 64}: it is not converted; pass the revision that it belongs to")
    message = user.error({"model": ENCODER}, "ValueError")
    assert message == f"{ENCODER} is an encoder, audio to tokens: open it with EncodecONNX, or pass it as encoder="
    hub.requests.clear()
    message = user.error({"model": "facebook/encodec_24khz"}, "ValueError")
    assert message.startswith("facebook/encodec_24khz is an encoder, audio to tokens")
    message = user.error({"model": OFFICIAL, "encoder": True}, "ValueError")
    assert message.startswith(f"{OFFICIAL} is a vocoder, tokens or mels to audio, not an encoder")
    for name in ("absent.onnx", "no/such/file", "./acme/vocos", "runs/last.ckpt", "acme/vocos.onnx"):
        assert "no model file" in user.error({"model": name}) or "no file" in user.error({"model": name})
    assert not hub.requests
    add_commit(hub, tmp_path, {**VOCODER_FILES, "pytorch_model.bin": b"damaged"})
    assert user.error({"model": REPO}, "ValueError").endswith("pytorch_model.bin is damaged")
    assert not user.models()
    assert not list((user.cache / "models").iterdir())


def test_what_is_logged(user: User) -> None:
    _, log = user.open({"model": REPO})
    for line in (
        f"INFO vocos_onnx downloading config.yaml of {REPO}, commit {COMMIT_1}",
        f"INFO vocos_onnx downloading pytorch_model.bin of {REPO}, commit {COMMIT_1}",
        f"converting {REPO} to float32, which may take some seconds",
    ):
        assert line in log
    _, log = user.open({"model": REPO})
    assert "downloading" not in log
    assert "converting" not in log


def test_folders_and_files(user: User, tmp_path: Path) -> None:
    """A local checkpoint is identified by path, size and mtime, so unchanged files are not hashed again."""
    folder, meta = repository(tmp_path / "run", VOCODER_FILES), repository(tmp_path / "meta", ENCODER_FILES)
    th = meta / "encodec_24khz-d7cc33bc.th"
    th.write_bytes(b"Meta's")
    for path in (*folder.iterdir(), *meta.iterdir()):
        os.utime(path, (1, 1))
    cases: list[dict[str, Any]] = [
        {"model": str(folder)},
        {"model": str(folder / "pytorch_model.bin")},
        {"model": str(meta), "encoder": True},
        {"model": str(th), "encoder": True},
        {"repo_or_folder": str(th), "encoder": True},
    ]
    found = user.ok(*cases)
    assert [text.split(":")[0] for _, text, *_ in found] == [
        "<VocosONNX run", "<VocosONNX pytorch_model.bin", "<EncodecONNX meta", f"<EncodecONNX {th.name}",
        f"<EncodecONNX {th.name}",
    ]  # fmt: skip
    assert user.conversions == 3  # the same weights are converted once
    (folder / "pytorch_model.bin").write_bytes(b"WEIGHTS")  # with the same size and, below, the same mtime
    os.utime(folder / "pytorch_model.bin", (1, 1))
    user.ok(cases[0])
    assert user.conversions == 3  # it is not read again
    os.utime(folder / "pytorch_model.bin", (2, 2))
    message = user.error({"pickle": found[0][3]}, "ValueError")
    assert "has the sha256" in message
    user.ok(cases[0])
    assert user.conversions == 4
    # a file written just now could change again within one tick of the file system's clock, so it is hashed
    for text in (b"weight1", b"weight2"):
        (folder / "pytorch_model.bin").write_bytes(text)
        os.utime(folder / "pytorch_model.bin", (time.time() + 1,) * 2)
        user.ok(cases[0])
    assert user.conversions == 6
    message = user.error({"repo_or_folder": str(folder), "revision": "main"}, "ValueError")
    assert "is a local folder, which has none: leave it out" in message


def test_the_commands(hub: Hub, user: User, tmp_path: Path) -> None:
    done = user.cli("models", "pull", OFFICIAL, "--int8")
    assert done.returncode == 0, done.stderr
    known = find_known(OFFICIAL)
    assert known is not None
    assert f"{OFFICIAL} is ready (" in done.stdout
    assert known.revision in done.stdout
    assert user.cli("models", "pull", ENCODER).returncode == 0
    listed = json.loads(user.cli("models", "--json").stdout)["models"]
    cached = {row["id"]: row for row in listed if row["state"] == "cached"}
    assert set(cached) == {OFFICIAL, ENCODER}
    assert cached[OFFICIAL]["precision"] == "int8"
    assert cached[OFFICIAL]["revision"] == known.revision
    assert cached[ENCODER]["kind"] == "encoder"
    assert len([row for row in listed if row["state"] == "bundled"]) == 3
    table = user.cli("models").stdout.splitlines()
    assert table[0].split() == ["model", "decodes", "Hz", "licence", "MB"]
    assert any(line.startswith("cached") and f"{OFFICIAL} (int8)" in line for line in table)
    info = user.cli("info", ENCODER, "--json", HF_HUB_OFFLINE="1")
    assert info.returncode == 0, info.stderr
    facts = json.loads(info.stdout)
    sha256 = file_sha256(hub.repositories[ENCODER][COMMIT_1] / "model.safetensors")
    assert facts["origin"] == {"name": ENCODER, "commit": COMMIT_1, "sha256": sha256}
    assert f"  commit: {known.revision}" in user.cli("info", OFFICIAL).stdout
    removed = user.cli("models", "rm", OFFICIAL)
    assert removed.returncode == 0
    assert removed.stdout.startswith(f"removed {OFFICIAL}: 2 converted, ")
    assert f"hf cache rm model/{OFFICIAL}" in removed.stdout
    assert len(user.models()) == 1
    assert user.cli("models", "rm", OFFICIAL).returncode == 2
    for arguments, message in (
        (["models", "pull", "absent.onnx"], "is not the id of a repository on the hub, expected owner/name"),
        (["models", "rm", "vocos-codec-24khz"], "is bundled, and is not removed"),
        (["models", "pull", "acme/absent"], "There is no such repository, or it is private"),
    ):
        done = user.cli(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    two = user.cli("resynth", "a.wav", "b.wav", "--model", OFFICIAL, HF_HUB_OFFLINE="1")
    assert two.returncode == 2
