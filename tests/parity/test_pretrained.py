"""VocosONNX.from_pretrained with a local hub: downloads, revisions, digests, the cache, and use offline."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.helpers import DATA
from tests.hub.server import Hub
from tests.parity.hub import in_a_process, pretrained

COMMIT_1, COMMIT_2 = "1" * 40, "2" * 40
REPO = "acme/vocos-onnx"


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    """One repository with two commits, each with a different model."""
    for commit, name in ((COMMIT_1, "encodec"), (COMMIT_2, "mel")):
        (tmp_path / commit).mkdir()
        shutil.copy(DATA / f"{name}.onnx", tmp_path / commit / "model.onnx")
    return Hub(
        {REPO: {commit: tmp_path / commit for commit in (COMMIT_1, COMMIT_2)}},
        {REPO: {"main": COMMIT_2, "v1": COMMIT_1}},
    )


def digest(name: str) -> str:
    return hashlib.sha256((DATA / f"{name}.onnx").read_bytes()).hexdigest()


def test_downloads_then_the_cache(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    main, tag = {"repo_or_folder": REPO}, {"repo_or_folder": REPO, "revision": "v1", "sha256": digest("encodec")}
    with hub.serve() as url:
        found = pretrained([{**main, "local_files_only": True}, main, tag], home, HF_ENDPOINT=url)
        assert found[0][0] == "FileNotFoundError"
        assert found[1:] == [["ok", "tiny-mel"], ["ok", "tiny-encodec"]]
        # the digest proves the cached file right, so the hub is not contacted
        hub.requests.clear()
        assert pretrained([tag], home, HF_ENDPOINT=url) == [["ok", "tiny-encodec"]]
        assert not [path for _, path, _ in hub.requests if REPO in path]
        wrong = [
            {**main, "sha256": digest("encodec")},
            {**main, "revision": "v9"},
            {**main, "filename": "other.onnx"},
            {"repo_or_folder": "acme/absent"},
            {"repo_or_folder": "not a name"},
        ]
        *errors, (kind, message) = pretrained(wrong, home, HF_ENDPOINT=url)
    assert (kind, message.split(";")[0]) == ("FileNotFoundError", "no model file not a name")
    assert [kind for kind, _ in errors] == ["ValueError", *["FileNotFoundError"] * 3]
    assert f"has the sha256 {digest('mel')}, expected {digest('encodec')}: it is not loaded" in errors[0][1]
    for (_, message), part in zip(
        errors[1:], ("at revision v9", "other.onnx of acme/", "acme/absent from"), strict=True
    ):
        assert message.startswith("cannot get ")
        assert part in message
    # the server has stopped
    for cases, variables in (
        ([main, tag, {**main, "revision": COMMIT_2}], {"HF_HUB_OFFLINE": "1"}),
        ([{**case, "local_files_only": True} for case in (main, tag)], {}),
    ):
        found = pretrained(cases, home, HF_ENDPOINT=url, **variables)
        assert [kind for kind, _ in found] == ["ok"] * len(cases)
    # no incomplete download is left
    assert not list(home.rglob("*.incomplete"))


def test_a_repository_without_the_file(hub: Hub, tmp_path: Path) -> None:
    """The error suggests what to do if the repository has only a checkpoint, models under other names, or neither."""
    for repo, names in (
        ("acme/weights", ("config.yaml", "a.safetensors", "b.safetensors")),
        ("acme/two", ("a.onnx", "b.onnx")),
        ("acme/text", ("README.md",)),
    ):
        files = tmp_path / repo
        files.mkdir(parents=True)
        for name in names:
            (files / name).write_text("x")
        hub.repositories[repo], hub.refs[repo] = {COMMIT_1: files}, {"main": COMMIT_1}
    with hub.serve() as url:
        errors = pretrained([{"repo_or_folder": repo} for repo in hub.repositories], tmp_path / "home", HF_ENDPOINT=url)
    assert [kind for kind, _ in errors] == ["ok", *["FileNotFoundError"] * 3]
    for (_, message), expected in zip(
        errors[1:],
        (
            "it holds a checkpoint, and no exported model: convert it with: vocos-onnx convert acme/weights -o "
            "weights.onnx",
            "it holds a.onnx, b.onnx: pass one of them as filename=",
            "it holds no .onnx file, and no checkpoint",
        ),
        strict=True,
    ):
        assert "cannot get model.onnx of " in message
        assert "from the hub: the repository has no such file; " in message
        assert expected in message


FAULTS = ("cut", "redirects without end", "another scheme", "a place that is none", "not compressed", "no HTTP")


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_network(fault: str, hub: Hub, tmp_path: Path) -> None:
    """Any error of the hub client or its HTTP library becomes FileNotFoundError, also when an export downloads."""
    shutil.copy(DATA / "mel.onnx", tmp_path / COMMIT_2 / "config.yaml")
    hub.fault = fault
    pinned = {"repo_or_folder": REPO, "sha256": digest("mel")}
    with hub.serve() as url:
        variables = {"HF_ENDPOINT": url, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        errors = pretrained([{"repo_or_folder": REPO}, pinned], tmp_path / "home", **variables)
        errors += in_a_process("export", [{"checkpoint": REPO}], tmp_path / "home", **variables)
    for kind, message in errors:
        assert kind == "FileNotFoundError", message
        assert "cannot get " in message and f"{REPO} from the hub (" in message
