"""What is a secret, by its name and by its form, and what a text looks like without it."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import re
import time
from urllib.parse import quote

import pytest

from watchbill import logs
from watchbill.redaction import Redactor, is_secret

pytestmark = pytest.mark.pure

SECRET = """
    OPENAI_API_KEY API_KEYS apikey X-Api-Key STRIPE_APIKEY openaiApiKey SECRET_KEY_BASE AWS_SECRET_ACCESS_KEY
    AWS_ACCESS_KEY_ID AccountKey SharedAccessKey TLS_PRIVATE_KEY GITHUB_TOKEN AUTHTOKEN OAuth2Token TOKEN1 SHORT_TOKEN
    DB_PASS SMTP_PASS SSHPASS PGPASSWORD MYSQL_PWD DB_PW REDIS_PASSWORD2 sentinel_password HTTP_PASSWD
    JIRA_PASSPHRASE GH_PAT GITHUB_PAT JWT SERVICE_JWT COOKIE SESSION_COOKIE BEARER SLACK_WEBHOOK_URL WEBHOOK
    PRIVATE_PEM GOOGLE_CREDENTIALS AZURE_CRED SENTRY_DSN BASIC_AUTH DOCKER_AUTH_CONFIG Authorization CLIENT_SECRETS
    AZURE_STORAGE_CONNECTION_STRING DB_CONN_STR MAIL_OTP WIFI_PSK
"""
OPEN = """
    HOME PATH PWD OLDPWD USER GIT_AUTHOR_NAME AUTHOR AUTHORS_FILE KEYBOARD_LAYOUT TOKENIZERS_PARALLELISM MONKEY
    COMPASS_HEADING BYPASS PATTERN PATIENCE SSH_AUTH_SOCK GIT_ASKPASS XAUTHORITY SSL_KEY_FILE TOKEN_URL AUTH_TYPE
    MAX_TOKENS TOKEN_LIMIT SECRET_NAME PASSWORD_MIN_LENGTH VAPID_PUBLIC_KEY KEY_PREFIX DESKTOP_SESSION
    SECRETARY PASSENGERS COOKIECUTTER_DIR WATCHBILL_SECRET_NAMES
"""


@pytest.mark.parametrize(
    ("name", "hidden"), [*((n, True) for n in SECRET.split()), *((n, False) for n in OPEN.split())]
)
def test_a_variable_is_secret_by_the_words_of_its_name(name: str, hidden: bool) -> None:
    redact = Redactor({name: "Jonathan-7x"})
    assert redact("it said: Jonathan-7x!") == f"it said: {f'[redacted {name}]' if hidden else 'Jonathan-7x'}!"


def test_a_setting_names_more_secrets_and_fewer() -> None:
    more = "STAGE_*_PIN, -SORT_KEY,-PUBLIC_*, motto"
    for name, hidden in {"stage_2_pin": 1, "MOTTO": 1, "OTHER_KEY": 1, "SORT_KEY": 0, "STAGE_PIN": 0}.items():
        assert is_secret(name, more) == bool(hidden), name
    redact = Redactor({"WATCHBILL_SECRET_NAMES": more, "MOTTO": "per aspera", "SORT_KEY": "created_at"})
    assert redact("per aspera created_at") == "[redacted MOTTO] created_at"


BEFORE = ("", "u", "u:", "me:", "user:")
ODD = "p'ä/ss wörd+\"1&\n2"
FORMS = {
    "as it is": ODD,
    "repr": repr(ODD)[1:-1],
    "repr of repr": repr(repr(ODD)),
    "bytes": repr(ODD.encode()),
    "JSON": json.dumps(ODD)[1:-1],
    "URL": quote(ODD, safe=""),
    "URL, lowercase": re.sub("%..", lambda match: match[0].lower(), quote(ODD)),
    "HTML": html.escape(ODD),
    **{f"base64 after {u!r}": base64.b64encode(f"{u}{ODD} etc.".encode()).decode() for u in BEFORE},
    "urlsafe base64": base64.urlsafe_b64encode(f"?>{ODD}".encode()).decode(),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_found_in_every_form_that_libraries_quote_it_in(form: str) -> None:
    told = Redactor({"DB_PASSWORD": ODD})(f"<{FORMS[form]}>")
    assert "[redacted DB_PASSWORD]" in told
    for rest in ("ss", "w\\", base64.b64encode(ODD.encode()).decode()[4:-4], "%2Fss", "w%C3"):
        assert rest not in told


@pytest.mark.parametrize(
    ("value", "secret"),
    [
        ("postgresql://app:p%40ss%2Fw0rd@db.invalid/app", "p@ss/w0rd"),
        ("postgresql://app:p%40ss%2Fw0rd@db.invalid/app", "p%40ss%2Fw0rd"),
        ("postgresql://app:s3cr@t-at@db.invalid/app", "s3cr@t-at"),
        ("postgresql://app:s3cr/t-slash@db.invalid/app", "s3cr/t-slash"),
        ("redis://:pl41n-only@redis.invalid:6379/0", "pl41n-only"),
        ("redis://h/0?password=QUERYPW1&db=1", "QUERYPW1"),
        ("redis+sentinel://h:1/s?sentinel_password=SENTPW%2Flong", "SENTPW/long"),
        ("redis://h/0?a=b,redis://:second-pw@h2/0", "second-pw"),
        ("https://ghp_0123456789abcdef@github.invalid/x", "ghp_0123456789abcdef"),
        ("https://blob.invalid/c?sv=1&sig=aB%2Bc0987%3D", "aB+c0987="),
        ("DefaultEndpointsProtocol=https;AccountKey=Zm9vYmFyYmF6cXV4==;X=y", "Zm9vYmFyYmF6cXV4=="),
        ("Driver=x;Server=db;UID=me;PWD=hunt-er2;", "hunt-er2"),
        ("host=db password='with blank 1'", "with blank 1"),
        ("api-key=k-123456,x=1", "k-123456"),
        ("user=me,token=tok-987654", "tok-987654"),
        ("token=tok-123456, token='tok-987654'", "tok-987654"),
        ('{"auths": {"token": "tok-987654"}}', "tok-987654"),
        ("Authorization=Bearer%20abc.def-1", "abc.def-1"),
    ],
)
def test_a_credential_inside_of_a_value_is_a_secret_whatever_its_name(value: str, secret: str) -> None:
    assert Redactor({"SETTING": value})(f"no luck with {secret}.") == "no luck with [redacted SETTING]."


@pytest.mark.parametrize("part", ["a", "://a", "amqp://u:pw@h:1/,"])
def test_large_values_take_their_time_in_proportion_to_their_size(part: str) -> None:
    def seconds(size: int) -> float:
        begun = time.process_time()
        Redactor({"SETTING": (part * size)[:size]})("text")
        return time.process_time() - begun

    seconds(1000)
    assert seconds(32_000) < 16 * max(seconds(8_000), 0.001), "4 times as much; 16 times, if it were squares"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("at redis://me:pw@h:6379/0?x=me@y", "at redis://me:[redacted]@h:6379/0?x=me@y"),
        ("at 'redis://:a@b/c@h', you@x.invalid", "at 'redis://:[redacted]@h', you@x.invalid"),
        ("GET https://h/x?a=1&api_key=k&token=t HTTP", "GET https://h/x?a=1&api_key=[redacted]&token=[redacted] HTTP"),
        ("sent Basic dXNlcjpwdw== there", "sent Basic [redacted] there"),
        ("sent Basic bWU+Pzpwdw== there", "sent Basic [redacted] there"),
        ("sent Basic bWU-Pzpwdw there", "sent Basic [redacted] there"),
        ("Basic information, and basically all", "Basic information, and basically all"),
        ("http://localhost:8080/users/me@x https://web.invalid:80/a:b@c", None),
        ("x = f(a=1, key=2) if a & b; https://docs.invalid/a?page=2", None),
    ],
)
def test_a_credential_in_the_url_of_a_text_is_taken_out_though_nothing_knows_it(text: str, told: str | None) -> None:
    assert Redactor({})(text) == (told or text)


def test_a_secret_of_a_variable_in_a_query_is_told_by_the_name_of_the_variable() -> None:
    redact = Redactor({"SOME_KEY": "k-12345678"})
    assert redact("GET https://h/x?key=k-12345678&a=1") == "GET https://h/x?key=[redacted SOME_KEY]&a=1"


def test_a_token_is_found_without_its_scheme_whatever_blanks_are_around_both() -> None:
    assert (
        Redactor({"API_AUTH": " Bearer abc.def-1 "})("no luck with abc.def-1.") == "no luck with [redacted API_AUTH]."
    )


def test_other_words_keep_their_letters() -> None:
    redact = Redactor(
        {"A_KEY": "p", "B_KEY": "tmp", "DB_PASS": "oper", "USE_TOKENS": "true", "TOKEN_MAX": "8000", "C_AUTH": "basic",
         "GOOGLE_APPLICATION_CREDENTIALS": "/etc/keys/g.json"}
    )  # fmt: skip
    text = 'File "/tmp/operator/x.py": true, 8000, basic, /etc/keys/g.json'
    assert redact(text) == text
    assert redact("as oper: '\\noper' x%3Doper") == (
        "as [redacted DB_PASS]: '\\n[redacted DB_PASS]' x%3D[redacted DB_PASS]"
    )


def test_a_key_of_several_lines_is_taken_out_line_by_line() -> None:
    redact = Redactor({"DEPLOY_PEM": "-----BEGIN KEY-----\nMIIBVgIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END KEY-----\n"})
    assert (
        redact("line MIIBVgIBADANBgkq, line hkiG9w0BAQEFAASC")
        == "line [redacted DEPLOY_PEM], line [redacted DEPLOY_PEM]"
    )


def test_the_environment_is_read_at_the_time_and_what_it_held_stays_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    redact = Redactor()
    assert redact("it is sk-FROMDOTENV-1") == "it is sk-FROMDOTENV-1"
    monkeypatch.setenv("SOME_API_KEY", "sk-FROMDOTENV-1")
    assert redact("it is sk-FROMDOTENV-1") == "it is [redacted SOME_API_KEY]"
    monkeypatch.delenv("SOME_API_KEY")
    assert redact("it was sk-FROMDOTENV-1") == "it was [redacted SOME_API_KEY]"
    monkeypatch.setenv("WATCHBILL_SECRET_NAMES", "MOTTO")
    monkeypatch.setenv("MOTTO", "per aspera")
    assert redact("per aspera") == "[redacted MOTTO]"


def test_a_log_line_has_no_secret_steers_nothing_and_begins_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGGED_TOKEN", "tok-en-1234567")
    written = io.StringIO()
    logger = logging.Logger(logs.AGENTS)  # noqa: LOG001 - not everybody's
    logger.addHandler(logs.Handler(written, logs.Formatter("%(levelname)s %(who)s: %(message)s")))
    told = logging.LoggerAdapter(logger, logs.about("team/notes", "mail", "r", "r/mail", 1))
    try:
        raise ValueError("tok-en-1234567\nINFO forged\x1b[2J")
    except ValueError:
        told.exception("half %s\nINFO forged", "wa\ry")
    told.info("count: %d", "tok-en-1234567")  # Python would quote the arguments
    logger.warning("of nobody")

    lines = written.getvalue().splitlines()
    assert lines[0] == "ERROR agent team/notes/mail run=r task=r/mail: half wa\ufffdy"
    assert [line for line in lines if not line.startswith("    ")][1:] == [
        "INFO agent team/notes/mail run=r task=r/mail: a log line ('count: %d') could not be written: "
        "TypeError: %d format: a real number is required, not str",
        f"WARNING {logs.AGENTS}: of nobody",
    ]
    assert "tok-en" not in written.getvalue()
    assert "\x1b" not in written.getvalue()
