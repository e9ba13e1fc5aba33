"""What we sign is verified by the reference library, and by an HMAC worked out here."""

import base64
import hashlib
import hmac
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from cmdop_appliance.webhooks.signing import check_secret, new_webhook_secret, signed_headers

BODY = '{"id":"evt_1","data":{"name":"Büro"}}'.encode()
OWN_KEY = b"k" * 24
OWN = "whsec_" + base64.b64encode(OWN_KEY).decode()
PLAIN = "correct horse battery"


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """RFC 2104, by hand: no function of `hmac` that the product may use, too."""
    key = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + data).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).digest()


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        pytest.param(new_webhook_secret(), None, id="generated"),
        (OWN, OWN_KEY),
        ("whsec_" + base64.b64encode(b"k" * 25).decode().rstrip("="), b"k" * 25),
        (PLAIN, PLAIN.encode()),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("x" * 256, b"x" * 256),
    ],
)
def test_the_reference_library_and_a_receivers_own_hmac_verify_every_kind_of_secret(secret, key):
    now = int(time.time())
    headers = signed_headers(secret, "evt_1", now, BODY)

    # of a secret that is not of its own form, the reference library wants the bytes
    reference = Webhook(secret if secret.startswith("whsec_") else secret.encode())
    assert reference.verify(BODY, headers)["id"] == "evt_1"
    if key is not None:
        standard = hmac_sha256(key, b"evt_1.%d." % now + BODY)
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(standard).decode()}"
    documented = hmac_sha256(secret.encode(), BODY).hex()
    assert headers["X-Cmdop-Signature"] == f"sha256={documented}"
    assert headers["webhook-id"] == "evt_1"
    assert headers["webhook-timestamp"] == str(now)


@pytest.mark.parametrize(
    "change",
    [
        {"body": BODY + b" "},
        {"webhook_id": "evt_2"},
        {"at_s": int(time.time()) - 1},
        {"secret": new_webhook_secret()},
    ],
)
def test_each_thing_that_is_signed_changes_the_standard_signature(change):
    signed = {"secret": OWN, "webhook_id": "evt_1", "at_s": int(time.time()), "body": BODY}
    forged = signed_headers(**signed) | {
        "webhook-signature": signed_headers(**signed | change)["webhook-signature"]
    }
    with pytest.raises(WebhookVerificationError):
        Webhook(OWN).verify(BODY, forged)


@given(st.binary())
def test_bodies_of_any_bytes_are_signed_as_they_are(body):
    headers = signed_headers(PLAIN, "evt_1", 7, body)
    expected = hmac.new(PLAIN.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Cmdop-Signature"] == f"sha256={expected}"


def test_a_new_secret_is_another_each_time_and_has_32_bytes():
    secrets = {new_webhook_secret() for _ in range(50)}
    assert len(secrets) == 50
    for secret in secrets:
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
        assert check_secret(secret) is None


@pytest.mark.parametrize("size", [24, 25, 26, 64])
def test_own_base64_is_a_secret_with_its_padding_and_without(size):
    text = "whsec_" + base64.b64encode(bytes(size)).decode()
    assert check_secret(text) is None
    assert check_secret(text.rstrip("=")) is None


@pytest.mark.parametrize(
    "text",
    [
        "whsec_",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        "whsec_" + base64.b64encode(bytes(32)).decode() + "=",
        "whsec_" + base64.b64encode(bytes(32)).decode()[:-2] + "\n=",
        "whsec_" + "ü" * 32,
        "whsec_correct horse battery staple of more than",
    ],
)
def test_what_follows_whsec_must_be_a_key(text):
    assert "base64 of 24 to 64 bytes" in check_secret(text)


@pytest.mark.parametrize(
    "text",
    ["", "1234567", "x" * 257, " 12345678", "12345678 ", "1234567\n8", "passwört", "\x7f" * 9],
)
def test_what_is_no_secret_is_told_the_rule(text):
    assert "8 to 256 printable ASCII" in check_secret(text)


@pytest.mark.parametrize("text", ["12345678", "a b c d e", "x" * 256, "~" * 8, "WHSEC_12"])
def test_any_other_text_is_a_secret(text):
    assert check_secret(text) is None


@given(st.text(max_size=300))
def test_whatever_is_taken_as_a_secret_can_sign(text):
    if check_secret(text) is None:
        signed_headers(text, "evt_1", 7, BODY)
