"""Root and revocation files: what stops the start, and what a change does while running."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fl_cluster.errors import StartupError
from fl_cluster.security.trust_files import TrustFiles


@pytest.fixture
def root(tmp_path, device_authority):
    path = tmp_path / "root.pem"
    path.write_bytes(device_authority.root.public_bytes(Encoding.PEM))
    return path


def files_of(first, second, revocations=""):
    return TrustFiles((("first", str(first)), ("second", str(second))), ("crl", str(revocations)))


def test_two_roots_may_be_the_same_and_a_list_need_not_be_named(root, device_authority):
    files = files_of(root, root)
    files.load()

    assert list(files.trust.roots) == [device_authority.root] * 2
    assert files.trust.revocations is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "No such file"), (b"junk", "expected a certificate"), (b"", "expected a certificate")],
)
def test_a_root_that_cannot_be_used_stops_the_start_in_the_known_words(
    root, tmp_path, content, complaint
):
    bad = tmp_path / "bad"
    if content is not None:
        bad.write_bytes(content)

    for pair in ((root, bad), (bad, root)):
        with pytest.raises(StartupError, match=rf"init root cert and crl failed\. .*{complaint}"):
            files_of(*pair).load()


def test_a_root_that_is_not_named_stops_the_start(root):
    with pytest.raises(StartupError, match=r"crl failed\. \(second is not set: both roots"):
        files_of(root, "").load()


def test_two_certificates_are_no_root(root, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(root.read_bytes() * 2)

    with pytest.raises(StartupError, match="expected 1 certificate, found 2"):
        files_of(root, both).load()


def test_a_list_that_cannot_be_read_stops_the_start(root, tmp_path):
    (tmp_path / "crl").write_text("junk")

    with pytest.raises(StartupError, match="expected a revocation list"):
        files_of(root, root, tmp_path / "crl").load()


def test_a_list_that_is_not_there_yet_is_a_warning_and_used_once_it_comes(
    root, tmp_path, device_authority, caplog
):
    files = files_of(root, root, tmp_path / "crl")
    with caplog.at_level(logging.WARNING):
        files.load()
    assert "no device is revoked until it is" in caplog.text
    assert not files.reload()

    (tmp_path / "crl").write_bytes(device_authority.revocations())

    assert files.reload()
    assert files.trust.revocations is not None
    assert not files.reload()


@pytest.mark.parametrize("change", ["gone", "junk"])
def test_a_list_that_vanishes_or_breaks_stays_in_force(
    root, tmp_path, device_authority, caplog, change
):
    path = tmp_path / "crl"
    path.write_bytes(device_authority.revocations())
    files = files_of(root, root, path)
    files.load()
    before = files.trust.revocations

    if change == "gone":
        path.unlink()
    else:
        path.write_text("junk")
    with caplog.at_level(logging.ERROR):
        files.reload()

    assert files.trust.revocations == before
    assert "stays in force" in caplog.text


def test_a_root_is_read_again_when_it_changes(root, tmp_path, make_device_authority):
    files = files_of(root, root)
    files.load()
    new = make_device_authority("new").root

    root.write_bytes(new.public_bytes(Encoding.PEM))

    assert files.reload()
    assert list(files.trust.roots) == [new] * 2


def test_what_ends_soon_is_told_before(root, tmp_path, device_authority):
    path = tmp_path / "crl"
    path.write_bytes(device_authority.revocations(next_update=timedelta(days=-2)))
    files = files_of(root, root, path)
    files.load()
    now = datetime.now(UTC)

    assert [each.partition(" 20")[0] for each in files.alarms(now, timedelta(days=60))] == [
        "first: to be renewed before",
        "second: to be renewed before",
        "crl: out of date since",
    ]
    assert len(files.alarms(now, timedelta(days=1))) == 1
