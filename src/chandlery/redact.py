"""Taking secrets out of text: the known ones by value, in every form they travel in, and what looks like one."""

from __future__ import annotations

import base64
import json
import os
import re
from functools import lru_cache
from urllib.parse import quote, quote_plus

MASK = "***"
#: A shorter value is no secret worth the name, and masking it would eat ordinary words.
SHORTEST = 4

_kept: set[str] = set()

_SECRET_VARIABLE = re.compile(r"(?i)(?:token|secret|password|passphrase|passwd|api_?key|private_?key)$")

# Words that announce a secret (they may end a longer word), and what may stand between them and it in JSON, Python,
# HTTP and URLs. No pattern may begin with a repetition: text can be long and hostile.
_WORDS = (
    r"api[_-]?key|secret(?:[_-]?key)?|signature|token|passw(?:or)?d|passphrase|private[_-]?key|authorization"
)
_LOOKS_SECRET = re.compile(
    rf"""(?ix) (?P<word>{_WORDS}) (?P<to> \\*["']? \s* (?:=|:|%3[ad]) \s* (?:b?\\*["'])? )
    (?: (?:token|bearer|basic|digest) \s+ )? [^\s"'\\&;,<>(){{}}\[\]]+"""
)
_BARE_SCHEME = re.compile(r"(?i)\b(?P<scheme>bearer|basic)\s+[A-Za-z0-9+/._~=-]{8,}")
_USER_IN_URL = re.compile(r"://[^/\s@\"']+@")


def keep_secret(*values: str) -> None:
    """Have these values masked in everything that `redact` sees from now on; those shorter than 4 are not."""
    _kept.update(value for value in values if len(value) >= SHORTEST)


def redact(text: str) -> str:
    """The text with secrets as `***`: values given to `keep_secret`, values of environment variables whose names end
    in TOKEN, SECRET, PASSWORD, KEY and the like (each also URL-encoded, JSON-escaped and in base64), and what stands
    after `apiKey=`, `signature=`, `Authorization:`, `token:` or before an `@` in a URL.
    """
    known = _kept.union(
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST and _SECRET_VARIABLE.search(name)
    )
    if known:
        text = _any_of(frozenset(known)).sub(MASK, text)
    text = _LOOKS_SECRET.sub(rf"\g<word>\g<to>{MASK}", text)
    text = _BARE_SCHEME.sub(rf"\g<scheme> {MASK}", text)
    return _USER_IN_URL.sub(f"://{MASK}@", text)


def visible(text: object, *, lines: bool = False) -> str:
    r"""The text with control characters, escapes and direction marks written out (`\x1b`, `\n`), so that it commands no
    terminal and cannot pose as another line; letters of any script stay.

    With `lines` it may have several lines, of which all but the first are indented, and tabs.
    """
    keep = "\t\n" if lines else ""
    shown = "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "surrogatepass").decode()
        for c in str(text)
    )
    return shown.replace("\n", "\n    ")


@lru_cache(maxsize=16)
def _any_of(secrets: frozenset[str]) -> re.Pattern[str]:
    forms = {form for secret in secrets for form in _forms(secret)}
    return re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)))


def _forms(secret: str) -> set[str]:
    """How a secret may look: as it is, percent-encoded, escaped, and in base64 at any offset of a longer text."""
    encoded = {
        quote(secret, safe=""),
        quote(secret),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
    }
    lower = {re.sub(r"%[0-9A-F]{2}", lambda m: m[0].lower(), form) for form in encoded}
    raw = secret.encode()
    based: set[str] = set()
    if len(raw) >= 8:  # shorter ones leave too few characters that are theirs alone
        for offset in range(3):
            whole = base64.b64encode(b"\0" * offset + raw).decode().rstrip("=")
            # Only characters made of the secret's bits alone: the first ones mix with what stands before it,
            # the last one with what follows.
            first = (0, 2, 3)[offset]
            last = (offset + len(raw)) * 8 // 6
            own = whole[first:last]
            based |= {own, own.replace("+", "-").replace("/", "_")}
    return {secret, *encoded, *lower, *based}
