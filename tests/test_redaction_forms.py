"""Each form in which a secret may stand in a text, one at a time; and what only looks like a credential."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from watchbill.redaction import Redactor

pytestmark = pytest.mark.pure

MARK = "[redacted A_KEY]"

QUOTED: dict[str, tuple[str, Callable[[str], str]]] = {
    "repr": ("p'a\"s\nsword", repr),
    "repr of repr": ("pass\nword", lambda secret: repr(repr(secret))),
    "repr of bytes": ("p\u00e4ssword", lambda secret: repr(secret.encode())),
    "JSON": ("p\u00e4ss\u2028word", json.dumps),
    "JSON, at its end": ("password\u00e4", json.dumps),
    "JSON, at its beginning": ("\u00e4password", json.dumps),
    "URL with all encoded": ("pass/word+1", lambda secret: quote(secret, safe="")),
    "URL": ("pass/word+1", quote),
    "URL of a form": ("pass word+1", quote_plus),
    "URL in lower case": (
        "pass/word?1",
        lambda secret: quote(secret, safe="").replace("%2F", "%2f").replace("%3F", "%3f"),
    ),
    "HTML": ("pass<word&1", html.escape),
}


@pytest.mark.parametrize("form", QUOTED)
def test_of_a_secret_in_this_form_nothing_is_left(form: str) -> None:
    secret, quoted = QUOTED[form]
    told = Redactor({"A_KEY": secret})(quoted(secret))
    assert re.fullmatch(r"""(?:b|["'\\])*\[redacted A_KEY\]["'\\]*""", told)


@pytest.mark.parametrize("before", ["", "x", "xy", "xyz"])
@pytest.mark.parametrize("after", ["", "x", "xy"])
@pytest.mark.parametrize(
    "secret", ["pass~word", "p\u00e4ssword?1", "\u00fb\u00ff\u00fepass>>word??", "pass~~~>???word~~~>"]
)
def test_of_a_secret_in_base64_at_most_the_bits_that_it_shares_with_its_neighbours_are_left(
    before: str, after: str, secret: str
) -> None:
    redact = Redactor({"A_KEY": secret})
    whole = f"{before}{secret}{after}".encode()
    for encoded in (base64.b64encode(whole).decode(), base64.urlsafe_b64encode(whole).decode()):
        told = redact(encoded)
        assert told.count(MARK) == 1
        assert len(told.replace(MARK, "").rstrip("=")) <= (len(before) + len(after)) * 4 / 3 + 4


@pytest.mark.parametrize(
    ("secret", "shown"),
    [("passwordW", 0), ("password=WX", 1), ("passwords1", 1)],  # in base64, the first two end with X
)
def test_of_base64_only_a_digit_is_left_that_the_next_letter_has_a_part_in(secret: str, shown: int) -> None:
    encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
    assert Redactor({"A_KEY": secret})(encoded) == MARK + encoded[len(encoded) - shown :]


def test_a_secret_may_hold_bytes_that_are_no_text() -> None:
    assert Redactor({"A_KEY": "pass\udcffword"})("<pass\udcffword>") == f"<{MARK}>"


@pytest.mark.parametrize(("secret", "is_hidden"), [("1234567", False), ("abcdefg", False), ("abcdefgh", True)])
def test_a_secret_is_looked_for_in_base64_and_within_words_from_eight_letters_on(secret: str, is_hidden: bool) -> None:
    redact = Redactor({"A_KEY": secret})
    for text in (base64.b64encode(secret.encode()).decode(), f"x{secret}x"):
        assert (MARK in redact(text)) is is_hidden
    assert redact(f"x {secret} x") == f"x {MARK} x"


@pytest.mark.parametrize(("secret", "is_hidden"), [("abc", False), ("abcd", True), ("12345", False), ("123456", True)])
def test_a_secret_has_four_letters_and_is_no_small_number(secret: str, is_hidden: bool) -> None:
    assert (MARK in Redactor({"A_KEY": secret})(f"x {secret} x")) is is_hidden


@pytest.mark.parametrize(
    ("secret", "text", "told"),
    [
        ("+abcd", "x+abcd x", f"x{MARK} x"),
        ("abcd+", "x abcd+x", f"x {MARK}x"),
        ("abcd", "xabcd", "xabcd"),
        ("abcd", "abcdx", "abcdx"),
        ("abcd", "\\nabcd \\rabcd \\tabcd %3Aabcd", f"\\n{MARK} \\r{MARK} \\t{MARK} %3A{MARK}"),
        ("abcd", "\\xabcd %3abcd", "\\xabcd %3abcd"),
    ],
)
def test_a_short_secret_is_a_word_of_its_own(secret: str, text: str, told: str) -> None:
    assert Redactor({"A_KEY": secret})(text) == told


def test_the_longer_of_two_secrets_is_taken_out_first() -> None:
    redact = Redactor({"A_KEY": "abcdefgh", "B_KEY": "abcdefgh-and-more"})
    assert redact("abcdefgh-and-more abcdefgh") == f"[redacted B_KEY] {MARK}"


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer  ", "Basic ", "Token ", "Bearer%20"])
def test_a_secret_is_known_with_and_without_the_scheme_before_it(scheme: str) -> None:
    redact = Redactor({"A_KEY": f"{scheme}abc-def-1"})
    assert redact("x abc-def-1 x") == redact(f"x {scheme}abc-def-1 x") == f"x {MARK} x"
    assert Redactor({"A_KEY": f" {scheme}abc-def-1\n"})(f"x{scheme}abc-def-1x") == f"x{MARK}x"


@pytest.mark.parametrize(
    ("value", "secrets"),
    [
        ("amqp://me:p%40ss@word@h/", ["p%40ss@word", "p@ss@word", "p%40ss", "p@ss"]),
        ("h1://me:one-pw@h,h2://me:two-pw@h three://me:three-pw@h", ["one-pw", "two-pw", "three-pw"]),
        ("https://0123456789abcdef@h/", ["0123456789abcdef"]),
        ("token=one-tok;token=two-tok key=three%2Bkey", ["one-tok", "two-tok", "three%2Bkey", "three+key"]),
        ("token=one-tok,rest", ["one-tok", "one-tok,rest"]),
        ('token="Bearer tok%2Bone"', ["tok%2Bone", "tok+one"]),
        ("""{"api_key" : "json-key", "name": "not-this"} password="with blank" pwd='and this'""",
         ["json-key", "with blank", "and this"]),
    ],
)  # fmt: skip
def test_every_credential_of_a_value_is_a_secret_as_it_stands_and_decoded(value: str, secrets: list[str]) -> None:
    redact = Redactor({"A_SETTING": value})
    for secret in secrets:
        assert redact(f"<{secret}>") == "<[redacted A_SETTING]>"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("https://0123456789abcde@h/", "0123456789abcde"),
        ("https://me@h/", "me"),
        ("""{"api_key" : "json-key", "name": "not-this"}""", "not-this"),
        ("user=somebody;key=some-key", "somebody"),
        ("http://localhost:8080/a:bcdef@h", "bcdef"),
        ("http://h.invalid:80/a:bcdef@h", "bcdef"),
    ],
)
def test_what_stands_beside_credentials_is_none(value: str, text: str) -> None:
    assert Redactor({"A_SETTING": value})(f"<{text}>") == f"<{text}>"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        *[(f"Basic {encoded}", "Basic [redacted]") for encoded in ("bWU6cHc=", "bWU6cHcx", "bWU6cHcxMg==")],
        *[(f"Basic {encoded}", "Basic [redacted]") for encoded in ("bWU6cHc", "bWU6cHcxMg")],  # as some write it
        *[(f"Basic {encoded}", "Basic [redacted]") for encoded in ("bWU6Pz8/", "bWU6Pj4+", "bWU6Pz8_", "bWU6Pj4-")],
        ("at a://me:pa?ss@h/", "at a://me:[redacted]@h/"),
        ("BASIC bWU6cHc=", "BASIC [redacted]"),
        ("Basic%20bWU6cHc=", "Basic%20[redacted]"),
        ("Basic nothing", "Basic nothing"),
        ("Basic abcdefghi", "Basic abcdefghi"),
        ("at a://me:@h and b://me@h and c://:pw@h", "at a://me:@h and b://me@h and c://:[redacted]@h"),
        ("a://h/?token=[redacted A_KEY]&key=x", "a://h/?token=[redacted A_KEY]&key=[redacted]"),
        ("a://h/?a%70i_key=x&b=1;key=y#key=z", "a://h/?a%70i_key=[redacted]&b=1;key=[redacted]#key=z"),
    ],
)
def test_a_credential_that_nothing_knows_is_taken_out_of_a_text(text: str, told: str) -> None:
    assert Redactor({})(text) == told


def test_of_a_key_in_several_lines_each_that_is_long_enough_is_a_secret() -> None:
    redact = Redactor({"A_PEM": "-----BEGIN A LONG KEY-----\n  0123456789abcdef\n0123456789abcde\n"})
    assert redact("<0123456789abcdef> <0123456789abcde> <-----BEGIN A LONG KEY----->") == (
        "<[redacted A_PEM]> <0123456789abcde> <-----BEGIN A LONG KEY----->"
    )


def test_so_many_secrets_that_are_gone_from_the_environment_are_remembered() -> None:
    environment = {f"OLD_{number}_KEY": f"gone-{number:04}" for number in range(1000)}
    redact = Redactor(environment)
    assert redact("gone-0999") == "[redacted OLD_999_KEY]"
    environment.clear()
    assert redact("<gone-0999>") == "<[redacted OLD_999_KEY]>"
    assert redact("<gone-0000>") == "<gone-0000>", "older than the last 2,000 forms"
