"""Tar files: their bytes, and how they change with their items."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from vocos_onnx.batch.shards import Member, write_shard


def member(folder: Path, name: str, data: bytes) -> Member:
    (folder / name).write_bytes(data)
    return Member(name, folder / name)


def test_bytes_depend_on_the_members_alone(tmp_path: Path) -> None:
    members = [member(tmp_path, f"{'é' * n}{n}.wav", bytes([n]) * n * 700) for n in (3, 1, 2, 90)]
    first = write_shard(tmp_path / "a.tar", members)
    for each in members:
        assert each.file is not None
        each.file.chmod(0o600)
        each.file.touch()
    assert write_shard(tmp_path / "b.tar", members).sha256 == first.sha256
    with tarfile.open(tmp_path / "a.tar") as tar:
        entries = tar.getmembers()
        assert [entry.name for entry in entries] == [each.name for each in members]
        assert {(e.mtime, e.uid, e.gid, e.uname, e.gname, e.mode) for e in entries} == {(0, 0, 0, "", "", 0o644)}
        data = tar.extractfile(members[2].name)
        assert data is not None
        assert data.read() == b"\2" * 1400


def test_what_has_not_changed_is_copied(tmp_path: Path) -> None:
    members = [member(tmp_path, f"{n}.npz", bytes([n]) * 1000) for n in range(4)]
    whole = write_shard(tmp_path / "whole.tar", members)
    write_shard(tmp_path / "a.tar", [members[0], members[3]])
    again = write_shard(tmp_path / "a.tar", [Member("0.npz", None), members[1], members[2], Member("3.npz", None)])
    assert again.sha256 == whole.sha256
    assert again.is_of(tmp_path / "a.tar")
    assert io.BytesIO((tmp_path / "a.tar").read_bytes()).getvalue() == (tmp_path / "whole.tar").read_bytes()
