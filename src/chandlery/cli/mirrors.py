"""The mirrors of a run: checked before it, followed beside it, told of after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from chandlery.cli.output import Exit, Output
from chandlery.errors import DatabaseError, NoSuchStore

if TYPE_CHECKING:
    from chandlery.config import Settings
    from chandlery.followers import Followers
    from chandlery.report import MirrorReport
    from chandlery.stores.base import Store


def check(settings: Settings) -> None:
    """Raise UsageError where a mirror of the settings cannot be one; a server that is down catches up later."""
    if settings.mirror:
        from chandlery.followers import check_mirrors
        from chandlery.stores import open_store
        from chandlery.stores.influx_place import is_influx_url

        check_mirrors(settings.store, settings.mirror, settings)
        for url in filter(is_influx_url, settings.mirror):
            try:
                open_store(url, create=False, settings=settings).close()
            except NoSuchStore:
                raise  # such a bucket never catches up
            except DatabaseError:
                continue


@asynccontextmanager
async def followed(store: Store, settings: Settings) -> AsyncIterator[Followers]:
    """The settings' mirrors, following `store` while inside; call `finish` there. Broken off, they end soon."""
    from chandlery.followers import Followers

    followers = Followers(store, settings.mirror, settings=settings).start()
    try:
        yield followers
    finally:
        followers.stop()


async def catch_up(settings: Settings) -> list[MirrorReport]:
    """Let the mirrors catch up with what is kept already, where the exchange lets nothing new begin."""
    from chandlery.stores import open_store

    if not settings.mirror:
        return []
    try:
        store = open_store(settings.store, create=False, settings=settings)
    except NoSuchStore:
        return []
    with store:
        async with followed(store, settings) as followers:
            return await followers.finish()


def tell_mirrors(out: Output, mirrors: Sequence[MirrorReport]) -> Exit:
    """Say of each mirror whether it is up to date, or how far it is behind and why; returns the exit code for that."""
    for mirror in mirrors:
        if mirror.ok:
            out.say(f"mirror {mirror.url}: up to date")
            continue
        if mirror.error is not None:
            out.error(mirror.error, about=f"mirror {mirror.url}")
        if mirror.behind is None:
            out.warn(
                f"mirror {mirror.url}: nobody knows how far it is behind; the next run tries to catch up"
            )
        elif mirror.behind:
            noun = "entry" if mirror.behind == 1 else "entries"
            out.warn(
                f"mirror {mirror.url}: {mirror.behind:,} journal {noun} behind; the next run tries to catch up"
            )
    return Exit.OK if all(mirror.ok for mirror in mirrors) else Exit.STORE
