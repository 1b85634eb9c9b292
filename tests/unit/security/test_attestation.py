"""Device certificates: chains that lead to a root or do not, and signatures."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from fl_cluster.security.attestation import (
    ChainTexts,
    Trust,
    Untrusted,
    check_in_text,
    check_now,
    device_id_of,
    parse_certificate,
    pem_of,
    read_revocations,
    read_roots,
    request_text,
    time_of,
    verify_chain,
    verify_signature,
)

NOW_MS = int(datetime.now(UTC).timestamp() * 1000)
DAY_MS = 86_400_000


def texts_of(pem):
    return ChainTexts(*pem[:3])


@pytest.fixture(scope="module")
def device(device_authority):
    return device_authority.device("phone-1")


@pytest.fixture
def published(pki_vectors):
    """The chain of a published device, and the roots it leads to."""
    names = ("key_attestation", "equip_cert", "equip_ca_cert")
    roots = read_roots(pki_vectors["root_cert"].encode())
    return verify_chain(ChainTexts(*(pki_vectors[name] for name in names)), roots)


def test_the_id_of_a_published_device_is_the_digest_of_its_equipment_certificate(pki_vectors):
    assert device_id_of(pki_vectors["equip_cert"]) == pki_vectors["fl_id"]


def test_a_published_device_proves_its_check_in(published, pki_vectors):
    text = check_in_text(pki_vectors["fl_id"], pki_vectors["timestamp"])

    assert text.decode() == pki_vectors["signed_start"]
    verify_signature(published.attestation, bytes.fromhex(pki_vectors["sign_data"]), text)
    check_now(published, Trust(()), int(pki_vectors["timestamp"]))


@pytest.mark.parametrize("name", ["getKeys", "updateModel", "pushListSign", "exchangeKeys"])
def test_a_published_device_proves_its_later_requests(published, pki_vectors, name):
    sent = pki_vectors[name]
    before = b"".join(bytes.fromhex(sent[key]) for key in ("c_pk", "s_pk") if key in sent)
    text = request_text(sent["timestamp"], sent["iteration"], before)
    signature = bytes.fromhex(sent.get("req_signature", sent["signature"]))

    verify_signature(published.attestation, signature, text)

    other = request_text(sent["timestamp"], sent["iteration"] + 1, before)
    with pytest.raises(Untrusted, match="not that of the device's key"):
        verify_signature(published.attestation, signature, other)


@pytest.mark.parametrize("salt", [0, 20, 32, padding.PSS.MAX_LENGTH])
def test_any_length_of_salt_is_taken(device, salt):
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt)

    verify_signature(
        device.certificates[0], device.key.sign(b"text", scheme, hashes.SHA256()), b"text"
    )


@pytest.mark.parametrize("signature", [b"", b"\0" * 256, b"x" * 70_000])
def test_what_is_no_signature_is_refused(device, signature):
    with pytest.raises(Untrusted):
        verify_signature(device.certificates[0], signature, b"text")


def test_a_signature_of_the_older_scheme_is_refused(device):
    signature = device.key.sign(b"text", padding.PKCS1v15(), hashes.SHA256())

    with pytest.raises(Untrusted):
        verify_signature(device.certificates[0], signature, b"text")


def test_either_of_two_roots_will_do(device, device_authority, make_device_authority):
    other = make_device_authority("other").root

    for roots in ([device_authority.root, other], [other, device_authority.root]):
        chain = verify_chain(texts_of(device.pem), roots)
        check_now(chain, Trust(roots), NOW_MS)


def test_a_chain_to_another_root_is_refused_even_under_the_same_names(
    device, make_device_authority
):
    for name in ("other", "maker"):
        with pytest.raises(Untrusted, match="neither of the configured roots"):
            verify_chain(texts_of(device.pem), [make_device_authority(name).root])


def test_a_certificate_of_another_device_does_not_fit_in(device, device_authority):
    other = device_authority.device("phone-2")

    with pytest.raises(Untrusted, match="key_attestation was not signed by equip_cert"):
        verify_chain(
            ChainTexts(other.pem[0], device.pem[1], device.pem[2]), [device_authority.root]
        )


def test_an_authority_that_may_not_issue_certificates_is_none(device_authority):
    key, leaf_key = device_authority.new_key(), device_authority.new_key()
    fake = device_authority.issue("fake", key, device_authority.root, device_authority.root_key)
    equipment = device_authority.issue("phone", leaf_key, fake, key)
    attestation = device_authority.issue("service", leaf_key, equipment, leaf_key)
    pem = [pem_of(each) for each in (attestation, equipment, fake)]

    with pytest.raises(Untrusted, match="lacks an extension"):
        verify_chain(texts_of(pem), [device_authority.root])


VERSION = (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x22")
NAME_TYPE = (b"\x06\x03\x55\x04\x03\x0c", b"\x06\x03\x55\x04\x03\x03")


def damaged(pem, damage):
    """The text of a certificate with bytes of its inside replaced."""
    honest = base64.b64decode("".join(pem.splitlines()[1:-1]))
    body = base64.b64encode(honest.replace(*damage, 1)).decode()
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_certificate_of_no_known_version_is_refused(device, device_authority, position):
    pem = list(device.pem)
    pem[position] = damaged(pem[position], VERSION)

    with pytest.raises(Untrusted, match="is not a certificate in PEM"):
        verify_chain(texts_of(pem), [device_authority.root])
    with pytest.raises(ValueError, match="expected a certificate"):
        read_roots(pem[position].encode())


@pytest.mark.parametrize("position", [1, 2])
def test_a_certificate_whose_names_are_no_text_is_refused(device, device_authority, position):
    pem = list(device.pem)
    pem[position] = damaged(pem[position], NAME_TYPE)

    with pytest.raises(Untrusted, match="a certificate cannot be read"):
        verify_chain(texts_of(pem), [device_authority.root])


def test_a_list_whose_names_cannot_be_read_is_none(device_authority):
    honest = x509.load_pem_x509_crl(device_authority.revocations()).public_bytes(Encoding.DER)

    with pytest.raises(ValueError, match="expected a revocation list"):
        read_revocations(honest.replace(b"maker", b"m\xffker", 1))


def test_an_equipment_certificate_of_another_authority_is_refused(
    device, device_authority, make_device_authority
):
    other = make_device_authority("second")
    pem = [*other.device("phone-3").pem[:2], device.pem[2]]

    with pytest.raises(Untrusted, match="names another issuer"):
        verify_chain(texts_of(pem), [device_authority.root])


def test_the_same_authority_name_with_another_key_is_refused(
    device, device_authority, make_device_authority
):
    other = make_device_authority("maker")
    pem = [*other.device("phone-4").pem[:2], device.pem[2]]

    with pytest.raises(Untrusted, match="another issuer's key"):
        verify_chain(texts_of(pem), [device_authority.root])


def test_a_key_that_is_too_short_is_refused(device_authority):
    short = rsa.generate_private_key(65_537, 1_024)
    equipment_key = device_authority.new_key()
    equipment = device_authority.issue(
        "phone", equipment_key, device_authority.authority, device_authority.authority_key
    )
    attestation = device_authority.issue("service", short, equipment, equipment_key)
    pem = [pem_of(each) for each in (attestation, equipment, device_authority.authority)]

    with pytest.raises(Untrusted, match="not RSA of 2048 bits or more"):
        verify_chain(texts_of(pem), [device_authority.root])


@pytest.mark.parametrize(
    "change",
    [
        lambda pem: pem + "\n",
        lambda pem: "\n" + pem,
        lambda pem: pem.replace("\n", "\r\n"),
        lambda pem: pem.rstrip("\n"),
        lambda pem: pem + pem,
        lambda pem: "".join(pem.splitlines()),
    ],
)
def test_one_certificate_has_one_text_so_that_it_has_one_id(device, change):
    text = change(device.pem[1])

    assert device_id_of(text) != device_id_of(device.pem[1])
    with pytest.raises(Untrusted, match="equip_cert is not"):
        parse_certificate(text, "equip_cert")


@pytest.mark.parametrize("text", ["", "nonsense", "\udcff", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_what_is_no_certificate_is_refused(text):
    with pytest.raises(Untrusted, match="equip_cert is not a certificate in PEM"):
        parse_certificate(text, "equip_cert")


def test_a_certificate_may_begin_ten_minutes_ahead_of_our_clock(device_authority):
    now = datetime.fromtimestamp(NOW_MS / 1000, UTC)
    for ahead, is_good in ((timedelta(minutes=9), True), (timedelta(minutes=11), False)):
        made = device_authority.device("early", begins=now + ahead)
        chain = verify_chain(texts_of(made.pem), [device_authority.root])
        if is_good:
            check_now(chain, Trust(()), NOW_MS)
        else:
            with pytest.raises(Untrusted, match="equip_cert is not valid before"):
                check_now(chain, Trust(()), NOW_MS)


def test_a_certificate_that_has_ended_is_refused(device, device_authority):
    chain = verify_chain(texts_of(device.pem), [device_authority.root])

    with pytest.raises(Untrusted, match="has expired at"):
        check_now(chain, Trust(()), NOW_MS + 31 * DAY_MS)


def check_with(pem, device, device_authority, now_ms=NOW_MS):
    chain = verify_chain(texts_of(device.pem), [device_authority.root])
    check_now(chain, Trust([device_authority.root], read_revocations(pem)), now_ms)


def test_a_revoked_device_is_refused_and_others_are_not(device, device_authority):
    other = device_authority.device("phone-5")
    pem = device_authority.revocations(device.certificates[1])

    check_with(pem, other, device_authority)
    with pytest.raises(Untrusted, match="equip_cert is revoked"):
        check_with(pem, device, device_authority)


def test_a_list_that_is_out_of_date_still_revokes_and_clears_nobody(device, device_authority):
    other = device_authority.device("phone-6")
    pem = device_authority.revocations(device.certificates[1], next_update=timedelta(days=-1))

    with pytest.raises(Untrusted, match="equip_cert is revoked"):
        check_with(pem, device, device_authority)
    with pytest.raises(Untrusted, match="list of the equipment authority is out of date since 20"):
        check_with(pem, other, device_authority)


def test_a_list_that_somebody_else_signed_says_nothing(device, device_authority):
    pem = device_authority.revocations(key=device_authority.root_key)

    with pytest.raises(Untrusted, match="authority was not signed by it") as caught:
        check_with(pem, device, device_authority)
    assert "client_verify.equip_crl_path" in str(caught.value)
    assert "out of date" not in str(caught.value)


def test_a_file_without_the_authoritys_list_is_told_from_one_with_a_bad_list(
    device, device_authority, make_device_authority
):
    pem = make_device_authority("elsewhere").revocations()

    with pytest.raises(Untrusted, match="there is no revocation list of the equipment authority"):
        check_with(pem, device, device_authority)


def test_one_good_list_clears_a_device_whatever_else_is_in_the_file(device, device_authority):
    forged = device_authority.revocations(key=device_authority.root_key)
    old = device_authority.revocations(next_update=timedelta(days=-1))

    check_with(forged + old + device_authority.revocations(), device, device_authority)
    with pytest.raises(Untrusted, match="is out of date since"):
        check_with(forged + old, device, device_authority)


def test_lists_of_several_authorities_are_in_one_file(
    device, device_authority, make_device_authority
):
    other = make_device_authority("elsewhere")
    pem = other.revocations() + device_authority.revocations()

    assert len(read_revocations(pem)) == 2
    check_with(pem, device, device_authority)


def test_roots_and_lists_are_read_from_pem_and_der(device_authority):
    root = device_authority.root
    assert read_roots(root.public_bytes(Encoding.PEM)) == [root]
    assert read_roots(root.public_bytes(Encoding.DER)) == [root]
    der = x509.load_pem_x509_crl(device_authority.revocations()).public_bytes(Encoding.DER)
    assert len(read_revocations(der)) == 1
    for read in (read_roots, read_revocations):
        with pytest.raises(ValueError, match="parsing"):
            read(b"nonsense")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "01795317377458",
        "+795317377458",
        "179531737745",
        "17953173774580",
        " 1795317377458",
        "1_79531737745",
        "\uff11795317377458",
        "2026/11/25",
    ],
)
def test_a_timestamp_is_thirteen_digits(text):
    assert time_of("1795317377458") == 1_795_317_377_458
    assert time_of(text) is None
