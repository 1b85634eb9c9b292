"""The one line that a participant is given: all of it comes through, and nothing else is taken."""

from __future__ import annotations

import ssl

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fl_cluster.errors import CallerProtocolError
from fl_cluster.sdk import Demands, FederatedDevice, Protection
from fl_cluster.sdk.join_line import JoinLine, parse_join_line

TOKEN = "flt_0123456789abcdefghijklmnop"


@pytest.fixture
def whole(device_authority):
    return JoinLine(
        servers=("fl.example.org:6666", "[2001:db8::1]:6667"),
        job="Lenet & co",
        is_tls=True,
        url_prefix="/x/",
        token=TOKEN,
        protection="DP_ENCRYPT,epsilon=0.5,delta=1e-05",
        ca_der=device_authority.root.public_bytes(Encoding.DER),
    )


def test_the_whole_line_comes_through_as_one_word(whole):
    text = whole.text()

    assert len(text.split()) == 1
    assert parse_join_line(f"  {text}\n") == whole
    assert whole.urls == ["https://fl.example.org:6666", "https://[2001:db8::1]:6667"]
    assert f"ca_sha256={whole.fingerprint}" in text


def test_the_least_line_is_a_server_and_a_job():
    found = parse_join_line("fl://h:1/?job=a")

    assert (found.urls, found.job, found.token) == (["http://h:1"], "a", "")
    assert found.protection == ""
    assert FederatedDevice.join("fl://h:1/?job=a", train=min, data_size=3).protection is None
    assert found.tls_context() is None


def test_only_the_text_shows_the_token(whole):
    assert TOKEN in whole.text()
    assert TOKEN not in repr(whole) + str(whole)


def test_the_authority_is_the_only_one_that_is_trusted(whole):
    context = whole.tls_context()

    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "begins with fl://"),
        ("https://h:1/?job=a", "begins with fl://"),
        ("fl://h:1", "has the form"),
        ("fl:///?job=a", "has the form"),
        ("fl://h:1,/?job=a", "has the form"),
        ("fl://h:1/?tls=1", "job is missing"),
        ("fl://h:1/?job=a&colour=red", "colour is not known"),
        ("fl://h:1/?job", "damaged"),
        ("fl://h:1/?job=a&ca=AAAA", "do not belong together"),
        ("fl://h:1/?job=a&ca_sha256=00", "do not belong together"),
        ("fl://h:1/?job=a&ca=A", "ca is damaged"),
        ("fl://h:1/?job=a\udc8e", "damaged"),
        ("fl://h:1/?job=a&protection=", "protection is damaged"),
        ("fl://h:1/?job=a&protection=SECURE_AGG", "protection is damaged, or nothing that this"),
        ("fl://h:1/?job=a&protection=SIGNDS", "protection is damaged"),
    ],
)
def test_a_line_that_was_damaged_on_its_way_is_refused(text, complaint):
    with pytest.raises(CallerProtocolError, match=complaint):
        parse_join_line(text)


def test_a_line_that_is_cut_never_shows_its_token(whole):
    text = whole.text()
    for end in range(len(text)):
        try:
            parse_join_line(text[:end])
        except CallerProtocolError as exc:
            assert TOKEN not in str(exc)  # noqa: PT017 - most cuts are refused, not all


def test_a_line_that_runs_together_does_not_show_its_token_either(whole):
    text = whole.text()
    for start in range(len(text)):
        try:
            parse_join_line(text[:start] + text[start + 1 :])
        except CallerProtocolError as exc:
            assert TOKEN not in str(exc)  # noqa: PT017 - most are refused, not all


def test_a_device_joins_by_its_line(whole):
    device = FederatedDevice.join(whole.text(), train=lambda w, p: w, data_size=3, device_id="d")

    assert list(device.servers) == whole.urls
    assert (device.job, device.url_prefix, device.token) == ("Lenet & co", "/x/", TOKEN)
    assert isinstance(device.tls, ssl.SSLContext)
    assert device.device_id == "d"
    assert TOKEN not in repr(device)


def test_a_token_is_not_sent_in_clear_unless_that_is_said():
    plain = JoinLine(servers=("h:1",), job="a", is_tls=False, token=TOKEN)
    with pytest.raises(CallerProtocolError, match="over plain HTTP, where anyone can read it"):
        FederatedDevice.join(plain.text(), train=lambda w, p: w, data_size=3)

    allowed = JoinLine(
        servers=("h:1",), job="a", is_tls=False, token=TOKEN, is_token_over_http=True
    )
    assert FederatedDevice.join(allowed.text(), train=lambda w, p: w, data_size=3).token == TOKEN


def test_a_token_that_cannot_go_into_a_header_is_refused():
    with pytest.raises(CallerProtocolError, match="token: expected printable ASCII"):
        FederatedDevice("https://h", train=lambda w, p: w, data_size=3, token="a\nb")


def test_what_the_owner_says_replaces_what_the_line_requires():
    line = JoinLine(servers=("h:1",), job="a", is_tls=False, protection="PW_ENCRYPT").text()

    def joined(**options):
        return FederatedDevice.join(line, train=min, data_size=3, **options).protection

    assert joined() == Protection("PW_ENCRYPT")
    assert joined(protection="SECURE_AGGREGATION") == Protection("SECURE_AGGREGATION")
    assert joined(protection=None) == joined()
    assert joined(demands=Demands()) == Protection("SECURE_AGGREGATION")
