"""URLs of an exchange, led to another server that stands in for it."""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit


def redirect_url(url: str, base: str) -> str:
    """`url` with scheme, host and port of `base`, whose path is put in front; the rest is kept.

    A WebSocket URL gets ws or wss, as `base` is http or https. Text that is no absolute URL is returned as it is.
    """
    parts, target = urlsplit(url), urlsplit(base)
    if not parts.scheme or not parts.netloc:
        return url
    secure = target.scheme in {"https", "wss"}
    scheme = ("ws" if parts.scheme in {"ws", "wss"} else "http") + ("s" if secure else "")
    path = target.path.rstrip("/") + parts.path
    return urlunsplit(SplitResult(scheme, target.netloc, path, parts.query, parts.fragment))


def redirected(tree: Any, base: str, hostname: str) -> Any:
    """All URLs in a tree of ccxt's, its `urls`, as `redirect_url` makes them."""
    if isinstance(tree, str):
        return redirect_url(tree.replace("{hostname}", hostname), base)
    if isinstance(tree, dict):
        return {key: redirected(value, base, hostname) for key, value in tree.items()}
    if isinstance(tree, list):
        return [redirected(value, base, hostname) for value in tree]
    return tree
