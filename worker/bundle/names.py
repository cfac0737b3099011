"""Which names promise a credential, and which values only stand for one.

Rule: a name is read as words (`maxTokens` is "max tokens"), never as a substring.
"""

from __future__ import annotations

import re
from enum import Enum, auto

__all__ = ["Kind", "is_placeholder", "kind_of"]


class Kind(Enum):
    """What a name promises about its value."""

    #: Whatever it is, a number included, it opens something.
    SECRET = auto()
    #: A text that looks random opens something; a number counts something.
    TOKEN = auto()
    #: Every text below it.
    SECRETS = auto()
    PLAIN = auto()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SECRET_WORDS = _words(
    "password passwd passphrase passcode pwd secret credential authorization cookie apikey pin otp"
    " accesskey secretkey privatekey"
)
#: A table under such a name holds nothing else.
_PLURALS = frozenset(("passwords", "secrets", "credentials", "cookies", "apikeys"))
#: `<word> key` is a credential.
_KEY_KINDS = _words("api access private signing encryption account ssh master secret client auth")
#: `<word> token` is a word of language models.
_MODEL_TOKENS = _words(
    "max min num n total stop special prompt completion input output cached cache reasoning new"
    " bos eos pad unk sep cls mask end start generated thinking image audio text next last first"
    " per of"
)
#: As the last word these say that the value is about the credential, not the credential.
_ABOUT = _words(
    "count limit used budget type kind length size ttl seconds minutes expiry expires at in enabled"
    " required policy path file dir env variable endpoint usage cost hint description name names"
    " prompt label field"
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

_PLACEHOLDER = re.compile(
    r"|null|none|nil|true|false|yes|no|auto|default|undefined|empty|dummy|required|optional"
    r"|string|str|text|object|any|bytes|bool|boolean|int|integer|number|array|ollama|not[-_ ]needed"
    r"|[.*x•-]+|<.*>|\{\{.*\}\}|your[-_ ].*|env:\w+|(?-i:\$[A-Z_]+|\$\{[A-Z_]+\}|%[A-Z_]+%)",
    re.IGNORECASE | re.DOTALL,
)


def kind_of(name: str) -> Kind:
    """Return what the name promises."""
    words = [word.lower() for word in _WORD.findall(name[-100:])]
    if not words or words[-1] in _ABOUT:
        return Kind.PLAIN
    if words[-1] in _PLURALS or (words[-1] == "keys" and _is_key(words[:-1])):
        return Kind.SECRETS
    if not _SECRET_WORDS.isdisjoint(words) or _names_key(words):
        return Kind.SECRET
    if words[-1] in ("token", "tokens") and _MODEL_TOKENS.isdisjoint(words[:-1]):
        return Kind.TOKEN
    return Kind.PLAIN


def is_placeholder(value: str) -> bool:
    """Return whether the text only stands where a credential would."""
    return _PLACEHOLDER.fullmatch(value.strip()) is not None


def _names_key(words: list[str]) -> bool:
    return any(word == "key" and _is_key(words[:at]) for at, word in enumerate(words))


def _is_key(before: list[str]) -> bool:
    return bool(before) and before[-1] in _KEY_KINDS
