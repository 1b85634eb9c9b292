"""Where devices find the calls, with prefixes as people write them."""

from __future__ import annotations

import pytest

from fl_cluster.api.paths import complaint, ways_to_write


@pytest.mark.parametrize(
    ("prefix", "paths"),
    [
        ("", {"/getModel", "//getModel"}),
        ("/", {"/getModel", "//getModel"}),
        ("/fl/", {"/fl/getModel", "/fl//getModel"}),
        ("/fl", {"/flgetModel", "/fl/getModel", "/fl//getModel"}),
        ("/a/b", {"/a/bgetModel", "/a/b/getModel", "/a/b//getModel"}),
    ],
)
def test_a_call_is_found_as_it_is_configured_and_as_devices_write_it(
    prefix: str, paths: set[str]
) -> None:
    assert set(ways_to_write(prefix, "getModel")) == paths
    assert complaint(prefix) is None


def test_a_prefix_that_begins_with_no_slash_is_of_no_use() -> None:
    assert complaint("fl/") == (
        "client.http_url_prefix is 'fl/', which no request can match, because paths begin with"
        " a slash: every device gets a 404; write '/fl/'"
    )
