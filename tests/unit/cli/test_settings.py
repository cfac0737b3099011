"""Wrong settings are said by their variable, before anything is connected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from worker.errors import Misconfigured
from worker.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

#: name -> variable, value, what is said of it.
WRONG = {
    "no URL of Redis": ("REDIS_URL", "s3cret-not-a-url", "REDIS_URL: this is no address: write"),
    "a web address": ("REDIS_URL", "http://x/0", "REDIS_URL: this is no address"),
    "no broker": ("BROKER_URL", "s3cret", "BROKER_URL: this is no address"),
    "no result store": ("RESULT_URL", "", "RESULT_URL: this is no address"),
    "no endpoint": ("S3_ENDPOINT", "minio:9000", "S3_ENDPOINT: 'minio:9000' is no address"),
    "half an endpoint": ("S3_ENDPOINT", "http://[x", "S3_ENDPOINT: Invalid IPv6"),
    "no teacher": ("TEACHERS__DEFAULT__BASE_URL", "api", "TEACHERS: default.base_url 'api' is no"),
    "a student's model": (
        "STUDENTS__A__BASE_URL",
        "http://x",
        "STUDENTS__A__MODEL: Field required",
    ),
    "an unknown field": ("TEACHERS__A__TEMPERATURE", "1", "TEACHERS__A__TEMPERATURE: Extra inputs"),
    "no account": ("BUDGETS", '{"nosuch": 5}', "BUDGETS: 'nosuch': accounts are fleet, tenant"),
    "a session's account": ("BUDGETS", '{"session:s-1": 5}', "BUDGETS: 'session:s-1': accounts"),
    "a path": ("BUDGETS", '{"tenant:../x": 5}', "BUDGETS: 'tenant:../x': accounts"),
    "NaN dollars": ("BUDGETS", '{"fleet": NaN}', "BUDGETS: fleet nan is no amount"),
    "less than nothing": ("BUDGETS", '{"fleet": -1}', "BUDGETS: fleet -1.0 is no amount"),
    "all there is": ("BUDGETS", '{"fleet": 1e30}', "BUDGETS: fleet 1e\\+30 is no amount"),
    "no JSON": ("BUDGETS", "{", "settings cannot be read: .*budgets"),
    "no end of money": ("NEW_CAMPAIGN_CAP_USD", "inf", "NEW_CAMPAIGN_CAP_USD: inf is no amount"),
    "a prefix": ("KEY_PREFIX", "a{b}", "KEY_PREFIX: String should match"),
    "a port": ("METRICS_PORT", "99999", "METRICS_PORT: Input should be less"),
    "a format": ("LOG_FORMAT", "xml", "LOG_FORMAT: String should match"),
}


@pytest.mark.parametrize(("variable", "value", "says"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_setting_is_named_and_never_shown_where_it_may_be_secret(
    variable: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"DIAGNOSIS_{variable}", value)

    with pytest.raises(Misconfigured, match=says) as refused:
        load_settings()

    assert "s3cret" not in refused.value.message
    assert "Value error" not in refused.value.message


FILES = {
    "no TOML": ("= =", "settings cannot be read"),
    "an unknown table": ("[nosuch]\nx = 1", "DIAGNOSIS_NOSUCH: Extra inputs"),
    "a wrong type": ("payload_inline_bytes = 'many'", "DIAGNOSIS_PAYLOAD_INLINE_BYTES: "),
}


@pytest.mark.parametrize(("text", "says"), FILES.values(), ids=list(FILES))
def test_a_file_that_cannot_be_used_is_said(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "diagnosis.toml"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("DIAGNOSIS_CONFIG", str(path))

    with pytest.raises(Misconfigured, match=says):
        load_settings()


@pytest.mark.parametrize("path", ["/nonexistent/diagnosis.toml", "/"])
def test_a_file_that_is_none_is_said(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIAGNOSIS_CONFIG", path)

    with pytest.raises(Misconfigured, match=r"DIAGNOSIS_CONFIG names .* not a file: correct it"):
        load_settings()


def test_the_broker_is_the_next_database_of_the_same_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DIAGNOSIS_REDIS_URL", "rediss://user:pw@host:6380/0?ssl_cert_reqs=none")

    settings = load_settings()

    assert settings.broker == "rediss://user:pw@host:6380/1?ssl_cert_reqs=none"
    assert settings.results == settings.broker
    assert "pw" not in repr(settings)
