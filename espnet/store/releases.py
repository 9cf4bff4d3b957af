"""Releases of the firmware, kept so that any collector on any machine can put them onto boards.

Invariants: a release is kept whole or not at all, and what comes back is what was kept:
every hash is looked at.
"""

import hashlib
from collections.abc import Collection
from typing import Any

import msgspec

from espnet.errors import FirmwareError
from espnet.firmware import MANIFEST, Release, build_of, read_manifest
from espnet.store.connection import Connection, translated

#: So many of the latest releases are kept, whether anybody needs them or not: to go back to one.
KEPT = 5


class Kept(msgspec.Struct, frozen=True):
    """A release that is kept: since when (Unix seconds), its files and their bytes."""

    build: str
    version: str
    at: float
    files: int
    bytes: int


class Releases(Connection):
    """What boards can be updated to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._releases, self._release_of = self.prefix + "releases", self.prefix + "release:"

    @translated
    def add_release(self, release: Release, now: float) -> None:
        """Keeps a release; one that is kept already becomes the latest."""
        pipe = self._redis.pipeline()
        files: dict[str, bytes] = {MANIFEST: release.manifest, **release.files}
        pipe.hset(self._release_of + release.build, mapping=files)
        pipe.zadd(self._releases, {release.build: now})
        pipe.execute()

    @translated
    def release(self, build: str) -> Release:
        """The release of this build; raises `FirmwareError` where it is not kept, or not whole."""
        kept = {
            name.decode(): data
            for name, data in self._redis.hgetall(self._release_of + build).items()
        }
        manifest = kept.pop(MANIFEST, None)
        if manifest is None:
            raise FirmwareError(
                f"There is no release {build} in Redis; `espcli update releases` lists those that are."
            )
        version, entries = read_manifest(manifest)
        files = {entry.name: kept.get(entry.name, b"") for entry in entries}
        if build_of(manifest) != build or any(
            hashlib.sha256(files[entry.name]).hexdigest() != entry.sha256 for entry in entries
        ):
            raise FirmwareError(
                f"The release {build} in Redis is damaged; `espcli update` with --to FOLDER keeps it anew."
            )
        return Release(version, build, manifest, files)

    @translated
    def releases(self) -> list[Kept]:
        """Those that are kept, the latest first."""
        rows = self._redis.zrevrange(self._releases, 0, -1, withscores=True)
        pipe = self._redis.pipeline(transaction=False)
        for build, _ in rows:
            pipe.hget(self._release_of + build.decode(), MANIFEST)
        found = []
        for (build, at), manifest in zip(rows, pipe.execute(), strict=True):
            if manifest is None:
                continue
            version, entries = read_manifest(manifest)
            size = sum(entry.size for entry in entries)
            found.append(Kept(build.decode(), version, at, len(entries), size))
        return found

    @translated
    def prune_releases(self, needed: Collection[str]) -> list[str]:
        """Forgets all but the latest `KEPT` and those builds that are ``needed``; returns what went."""
        builds = [build.decode() for build in self._redis.zrevrange(self._releases, 0, -1)]
        gone = [build for build in builds[KEPT:] if build not in needed]
        pipe = self._redis.pipeline()
        for build in gone:
            pipe.delete(self._release_of + build)
            pipe.zrem(self._releases, build)
        pipe.execute()
        return gone
