"""What we post can be known by any receiver that follows Standard Webhooks."""

import base64

import pytest

from worker import signatures

#: an example that libraries of the specification test themselves with
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, AT_S, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_message_is_signed_as_the_specification_signs_it() -> None:
    assert signatures.headers([signatures.parse(SECRET)], ID, AT_S, BODY) == {
        "webhook-id": ID,
        "webhook-timestamp": "1614265330",
        "webhook-signature": SIGNATURE,
    }


def test_while_a_secret_is_changed_a_message_is_signed_with_both() -> None:
    new = base64.b64decode("bmV3" * 8)
    both = signatures.headers([new, signatures.parse(SECRET)], ID, AT_S, BODY)["webhook-signature"].split(" ")
    assert both[0] != both[1] == SIGNATURE


@pytest.mark.parametrize(
    "wrong",
    ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_c2hvcnQ=", "whsec_not base64!", "whsec_" + "YWFh" * 22],
    ids=["nothing", "no prefix", "empty", "short", "no base64", "long"],
)
def test_a_secret_that_is_none_is_refused_without_being_quoted(wrong: str) -> None:
    with pytest.raises(ValueError, match="give whsec_ and the base64 of 24 to 64 random bytes") as refused:
        signatures.parse(wrong)
    assert not wrong or wrong == "whsec_" or wrong not in str(refused.value)
