"""GET /model/{round}: the model of a round as a file that proxies can carry."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from blackbox.cluster import Cluster
from blackbox.line import Line, Reply, ask, request

DIGEST = r'"[0-9a-f]{64}"'


def get(cluster: Cluster, path: str, *headers: str, method: str = "GET", server: int = 0) -> Reply:
    asked = request(path, None, *headers, method=method)
    return ask(cluster.ports[server], asked, has_body=method != "HEAD")


def run_round(cluster: Cluster, number: int) -> None:
    cluster.join("c1", "c2")
    weights = {"w000": [32.0 * number] * 3, "w001": [32.0 * number] * 2}
    cluster.send("c1", number, weights)
    cluster.send("c2", number, weights, server=1)
    for server in (0, 1):
        cluster.model(number, server=server)


@pytest.fixture
def whole(cluster: Cluster) -> Reply:
    """The file of round 1."""
    run_round(cluster, 1)
    reply = get(cluster, "/model/1")
    assert reply.status == "HTTP/1.1 200 OK"
    return reply


def assert_sentence(reply: Reply, status: str, sentence: str) -> None:
    assert reply.status.startswith(f"HTTP/1.1 {status}")
    assert reply.header("Content-Type") == "text/plain; charset=utf-8"
    assert reply.header("Cache-Control") == "no-store"
    assert reply.text == f"{sentence}\n"


def test_a_model_is_a_file_that_numpy_reads(cluster: Cluster, whole: Reply) -> None:
    loaded = np.load(io.BytesIO(whole.body), allow_pickle=False)

    assert {name: loaded[name].tolist() for name in loaded} == cluster.model(1).tensors
    assert whole.names == [
        *("ETag", "Cache-Control", "Accept-Ranges", "Content-Disposition"),
        *("Date", "Content-Length", "Content-Type"),
    ]
    assert whole.header("Content-Type") == "application/octet-stream"
    assert whole.header("Cache-Control") == "public, max-age=60, immutable"
    assert whole.header("Content-Disposition") == 'attachment; filename="round-1.npz"'
    weights = np.ones(5, "<f4").tobytes()
    assert whole.header("ETag") == f'"{hashlib.sha256(weights).hexdigest()}"'


def test_every_server_hands_out_the_same_bytes(cluster: Cluster, whole: Reply) -> None:
    other = get(cluster, "/model/1", server=1)

    assert (other.body, other.header("ETag")) == (whole.body, whole.header("ETag"))


def test_an_address_with_the_digest_is_good_for_ever(cluster: Cluster, whole: Reply) -> None:
    digest = (whole.header("ETag") or "").strip('"')

    named = get(cluster, f"/model/1?sha256={digest}")
    wrong = get(cluster, f"/model/1?sha256={'0' * 64}")

    assert named.body == whole.body
    assert named.header("Cache-Control") == "public, max-age=31536000, immutable"
    assert_sentence(wrong, "404 Not Found", f"The model of round 1 has SHA-256 {digest}.")


def test_a_model_that_the_asker_has_is_not_sent_again(cluster: Cluster, whole: Reply) -> None:
    tag = whole.header("ETag") or ""

    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        reply = get(cluster, "/model/1", f"If-None-Match: {known}")
        assert reply.status == "HTTP/1.1 304 Not Modified"
        assert reply.header("ETag") == tag
        assert "Content-Length" not in reply.names
        assert reply.body == b""
    assert get(cluster, "/model/1", 'If-None-Match: "other"').body == whole.body


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-9", 0, 9),
        ("bytes=10-", 10, None),
        ("bytes=-7", -7, None),
        ("bytes=5-999999", 5, None),
        ("bytes=-999999", 0, None),
        ("BYTES=0-0", 0, 0),
    ],
)
def test_a_part_is_sent_as_a_part(
    cluster: Cluster, whole: Reply, asked: str, first: int, last: int | None
) -> None:
    size = len(whole.body)
    first = first if first >= 0 else size + first
    last = size - 1 if last is None else last

    reply = get(cluster, "/model/1", f"Range: {asked}", server=1)

    assert reply.status == "HTTP/1.1 206 Partial Content"
    assert reply.header("Content-Range") == f"bytes {first}-{last}/{size}"
    assert reply.body == whole.body[first : last + 1]
    assert reply.header("ETag") == whole.header("ETag")


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,4-5", "lines=0-1", "bytes=5-2", "bytes=-", "bytes", "bytes=a-b"]
)
def test_other_ranges_are_passed_over(cluster: Cluster, whole: Reply, asked: str) -> None:
    reply = get(cluster, "/model/1", f"Range: {asked}")

    assert (reply.status, reply.body) == ("HTTP/1.1 200 OK", whole.body)


@pytest.mark.parametrize("asked", ["bytes=999999-", "bytes=-0"])
def test_a_part_that_is_not_there_is_told_so(cluster: Cluster, whole: Reply, asked: str) -> None:
    size = len(whole.body)

    reply = get(cluster, "/model/1", f"Range: {asked}")

    assert_sentence(reply, "416", f"The file has {size} bytes.")
    assert reply.header("Content-Range") == f"bytes */{size}"


def test_a_part_of_another_file_is_the_whole_of_this_one(cluster: Cluster, whole: Reply) -> None:
    tag = whole.header("ETag")

    same = get(cluster, "/model/1", "Range: bytes=0-3", f"If-Range: {tag}")
    other = get(cluster, "/model/1", "Range: bytes=0-3", 'If-Range: "other"')

    assert same.body == whole.body[:4]
    assert (other.status, other.body) == ("HTTP/1.1 200 OK", whole.body)


def test_head_gets_the_head_alone_and_the_connection_stays(cluster: Cluster, whole: Reply) -> None:
    with Line(cluster.ports[0]) as line:
        for _ in range(2):
            line.send(request("/model/1", None, method="HEAD"))
            head = line.receive(has_body=False)
            assert head.status == "HTTP/1.1 200 OK"
            assert [pair for pair in head.headers if pair[0] != "Date"] == [
                pair for pair in whole.headers if pair[0] != "Date"
            ]
        line.send(request("/model/1", None, method="GET"))
        assert line.receive().body == whole.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_model_can_only_be_read(cluster: Cluster, method: str) -> None:
    reply = get(cluster, "/model/0", method=method)

    sentence = f"A model can be read, and {method} is no way to."
    assert_sentence(reply, "405 Method Not Allowed", sentence)
    assert reply.header("Allow") == "GET, HEAD"


def test_a_round_that_is_not_kept_is_told_so(cluster: Cluster, whole: Reply) -> None:
    for number in (2, 9, 4294967296):
        sentence = f"The model of round {number} is not kept; those of rounds 0 and 1 are."
        assert_sentence(get(cluster, f"/model/{number}"), "404 Not Found", sentence)
    run_round(cluster, 2)
    run_round(cluster, 3)
    sentence = "The model of round 0 is not kept; those of rounds 1, 2 and 3 are."
    assert_sentence(get(cluster, "/model/0"), "404 Not Found", sentence)
    assert get(cluster, "/model/1").body == whole.body


@pytest.mark.parametrize("name", ["latest", "01", "-1", "1.0", "", "%31x", "1" * 11])
def test_what_is_no_number_is_told_so(cluster: Cluster, name: str) -> None:
    reply = get(cluster, f"/model/{name}")

    assert reply.status == "HTTP/1.1 404 Not Found"
    assert reply.text.startswith("Expected the number of a round in /model/NUMBER, found ")


@pytest.mark.parametrize("path", ["/model", "/model/0/", "/model/0/1", "/x/model/0"])
def test_other_paths_are_unknown(cluster: Cluster, path: str) -> None:
    reply = get(cluster, path)

    assert reply.status == "HTTP/1.1 404 Not Found"
    assert b"The requested URL" in reply.body


def test_after_the_last_round_its_model_can_be_had(cluster: Cluster) -> None:
    cluster.fresh(fl_iteration_num=1)
    run_round(cluster, 1)

    loaded = np.load(io.BytesIO(get(cluster, "/model/1", server=1).body))

    assert loaded["w000"].tolist() == [1.0] * 3
