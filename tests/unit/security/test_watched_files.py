"""Files that security rests on: noticed when changed, refused when open to all."""

from __future__ import annotations

import pytest

from fl_cluster.errors import StartupError
from fl_cluster.security import watched_files
from fl_cluster.security.watched_files import WatchedFile, read_whole, refuse_when_readable_by_all


def test_a_change_is_seen_once_whether_written_or_renamed_into_place(tmp_path):
    path = tmp_path / "list"
    watched = WatchedFile(str(path))
    assert watched.has_changed()
    assert not watched.exists()
    assert not watched.has_changed()

    path.write_text("one")
    assert watched.has_changed()
    assert watched.exists()
    assert not watched.has_changed()

    (tmp_path / "new").write_text("two")
    (tmp_path / "new").rename(path)
    assert watched.has_changed()

    path.chmod(0o600)
    assert watched.has_changed()
    assert not watched.has_changed()

    path.unlink()
    assert watched.has_changed()
    assert not watched.exists()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_a_file_for_few_is_taken(tmp_path, mode):
    path = tmp_path / "secret"
    path.write_text("x")
    path.chmod(mode)

    refuse_when_readable_by_all(str(path), "the secret")


@pytest.mark.parametrize("mode", [0o644, 0o602, 0o604])
def test_a_file_for_all_is_refused_with_what_to_do(tmp_path, mode):
    path = tmp_path / "secret"
    path.write_text("x")
    path.chmod(mode)

    with pytest.raises(StartupError, match=rf"the secret .*\(mode 0{mode:o}\): chmod 600"):
        refuse_when_readable_by_all(str(path), "the secret")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StartupError, match=r"the list .*/absent: No such file or directory"):
        read_whole(str(tmp_path / "absent"), "the list")
    with pytest.raises(StartupError, match="No such file"):
        refuse_when_readable_by_all(str(tmp_path / "absent"), "the list")


def test_a_file_without_end_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(watched_files, "LARGEST", 10)
    (tmp_path / "large").write_bytes(bytes(11))

    with pytest.raises(StartupError, match="expected at most 10 bytes"):
        read_whole(str(tmp_path / "large"), "the list")
