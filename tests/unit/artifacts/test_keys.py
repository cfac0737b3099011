from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.core import keys
from worker.errors import BadInput, RequestInvalid

SHA = hashlib.sha256(b"x").hexdigest()
OTHER = hashlib.sha256(b"y").hexdigest()
SAFE = set("abcdefghijklmnopqrstuvwxyz0123456789._-/")

#: Anything at all, names that are nearly right, and right ones.
hostile = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="ab1._-/\\ \n\0A%", max_size=12),
    st.from_regex(r"[a-z0-9][a-z0-9._-]{0,30}", fullmatch=True),
    st.sampled_from(
        ["..", ".", "", "a/../b", "a\n", "..a", "a..b", "\uff41", "a" * 129, "-a", "A"]
    ),
)
#: Few letters, so that two draws are often alike.
names = st.from_regex(r"[a-c][a-c.-]{0,2}", fullmatch=True)


def made(make: object, *args: object, **names: object) -> str | None:
    """The key, or None where it was refused."""
    assert callable(make)
    try:
        return str(make(*args, **names))
    except BadInput:
        return None


def assert_below(key: str, prefix: str, parts: int) -> None:
    assert key.startswith(prefix)
    assert set(key) <= SAFE
    assert len(key) < 1024, "S3 refuses longer keys"
    pieces = key.split("/")
    assert len(pieces) == parts
    assert not {"", ".", ".."} & set(pieces)


@given(tenant=hostile, campaign=hostile, session_id=hostile)
def test_no_manifest_escapes_its_prefix(tenant: str, campaign: str, session_id: str) -> None:
    key = made(keys.manifest, tenant=tenant, campaign=campaign, session_id=session_id)

    if key is None:
        return
    assert_below(key, f"sessions/{tenant}/{campaign}/{session_id}/", 5)


@given(name=hostile | st.lists(hostile, max_size=5).map("/".join))
def test_no_artifact_escapes_its_edition(name: str) -> None:
    key = made(keys.artifact, tenant="t", campaign="c", session_id="s", edition="0" * 16, name=name)

    if key is None:
        return
    assert_below(key, f"sessions/t/c/s/{'0' * 16}/", 6 + name.count("/"))


@given(session_id=hostile, sha256=hostile | st.just(SHA))
def test_no_blob_escapes_its_session(session_id: str, sha256: str) -> None:
    key = made(keys.blob, session_id, sha256)

    if key is None:
        return
    assert_below(key, f"blobs/{session_id}/", 3)


@given(sha256=hostile | st.text("0123456789abcdefg", min_size=64, max_size=65))
def test_a_bundle_is_named_by_nothing_but_a_hash(sha256: str) -> None:
    key = made(keys.bundle, sha256)

    assert key in (None, f"bundles/{sha256}.tar.gz")
    assert (key is not None) == (len(sha256) == 64 and set(sha256) <= set("0123456789abcdef"))


@given(first=st.tuples(names, names, names), second=st.tuples(names, names, names))
@example(first=("a", "b", "c"), second=("a", "b", "cc"))
def test_two_sessions_never_share_a_folder(
    first: tuple[str, str, str], second: tuple[str, str, str]
) -> None:
    folders = [
        made(keys.session_folder, tenant=tenant, campaign=campaign, session_id=session_id)
        for tenant, campaign, session_id in (first, second)
    ]

    one, two = folders
    if one is None or two is None or first == second:
        return
    assert not one.startswith(two)
    assert not two.startswith(one)


@given(value=st.from_regex(r"[a-z0-9]([._-]?[a-z0-9_-]){0,60}", fullmatch=True))
def test_every_plain_name_is_accepted_as_it_is(value: str) -> None:
    assert keys.valid_name("tenant", value) == value


def test_a_refusal_names_the_field() -> None:
    with pytest.raises(RequestInvalid, match=r"^tenant ") as caught:
        keys.valid_name("tenant", "../x")

    assert caught.value.facts["field"] == "tenant"


@pytest.mark.parametrize("name", ["a", "2026-11-22.night_3", "0", "a" * 128])
def test_these_are_names(name: str) -> None:
    assert keys.valid_name("campaign", name) == name


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "a..b", ".a", "a b", "a\n", "ä", "a" * 129])
def test_these_are_not(name: str) -> None:
    with pytest.raises(RequestInvalid, match="campaign"):
        keys.valid_name("campaign", name)


def test_an_error_quotes_no_more_than_the_beginning_of_a_huge_name() -> None:
    with pytest.raises(RequestInvalid) as caught:
        keys.valid_name("tenant", "x" * 1_000_000)

    assert len(str(caught.value)) < 300


def test_a_bundle_uri_gives_back_its_hash() -> None:
    uri = f"s3://bucket/{keys.bundle(SHA)}"

    assert keys.bundle_sha256(uri) == SHA


@pytest.mark.parametrize(
    "uri",
    [
        "",
        f"s3://bucket/bundles/{SHA}",
        f"s3://bucket/x/../bundles/{SHA}.tar.gz",
        f"s3://user:secret@bucket/bundles/{SHA}.tar.gz",
        f"s3://bucket/bundles/{SHA}.tar.gz\n",
        f"s3://bucket/bundles/{SHA.upper()}.tar.gz",
        "file:///etc/passwd",
        "https://169.254.169.254/latest",
    ],
)
def test_no_other_address_is_a_bundle(uri: str) -> None:
    with pytest.raises(RequestInvalid, match="bundle_uri"):
        keys.bundle_sha256(uri)


def test_an_edition_depends_on_every_name_and_hash_and_on_no_order() -> None:
    edition = keys.edition_of({"a.md": SHA, "b/c.jsonl": OTHER})

    assert edition == keys.edition_of({"b/c.jsonl": OTHER, "a.md": SHA})
    assert edition != keys.edition_of({"a.md": SHA})
    assert edition != keys.edition_of({"a.md": OTHER, "b/c.jsonl": OTHER})
    assert edition != keys.edition_of({"a2.md": SHA, "b/c.jsonl": OTHER})


@pytest.mark.parametrize("edition", ["", "x" * 16, "..", "0" * 15, "0" * 17, "0" * 15 + "\n"])
def test_an_edition_is_never_free_text(edition: str) -> None:
    with pytest.raises(BadInput, match="edition"):
        keys.artifact(tenant="t", campaign="c", session_id="s", edition=edition, name="a.md")
