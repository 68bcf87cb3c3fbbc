"""List the wanted images of an archive: where the bytes of each are, or why they cannot be read.

As in unpacking, the last member of an image counts. A hard link is what has its target's name when
it is met, a symbolic link what has it in the end; both are looked for in a second pass, which only
archives with links for wanted images need.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sharding.image_ids import IdIndex, Ids, parse_image_file
from sharding.storage.retry import LARGEST_IMAGE
from sharding.storage.tar_reader import MemberContent, is_link

Members = Iterable[tuple[tarfile.TarInfo, MemberContent | None]]
Place = tuple[int, int]
"""Offset and size in bytes."""
Keep = Callable[[tarfile.TarInfo, MemberContent], Place]
"""Says where the content of a member can be read at random, having copied it where it must be."""

_MOST_LINKS = 40
"""Links in a row, as Linux follows them."""


@dataclass(frozen=True, kw_only=True)
class _Link:
    """A link: its target as written and as a name in the archive, which a file has ``before`` it.

    ``before`` is the number of a hard link; None for a symbolic one, of which the last file counts.
    """

    written: str
    target: str
    before: int | None


@dataclass(kw_only=True)
class Listing:
    """Collect places and reasons by image id.

    Attributes:
        wanted_N: ids of the images to list.
        keep: says where a member is.
        places: of the images that can be read.
        unusable: why others cannot.
    """

    wanted_N: Ids
    keep: Keep
    places: dict[int, Place] = field(default_factory=dict)
    unusable: dict[int, str] = field(default_factory=dict)
    _links: dict[int, _Link] = field(default_factory=dict)
    _link_of: dict[str, _Link] = field(default_factory=dict)  # by name, as far as it is met

    def add(self, members: Members) -> None:
        """Add the files among the members, and note the links."""
        wanted = IdIndex(self.wanted_N)
        for number, (member, content) in enumerate(members):
            parsed = parse_image_file(member.name)
            key = None if parsed is None else int(parsed[0], 16)
            key = key if key is not None and key in wanted else None
            if key is not None:
                for known in (self.places, self.unusable, self._links):
                    known.pop(key, None)  # type: ignore[attr-defined]
            if not is_link(member):
                self._link_of.pop(_normal(member.name), None)
                if key is not None:
                    self._place([key], member, content)
            else:
                link = self._link(member, number)
                self._link_of[_normal(member.name)] = link
                if key is not None:
                    self._links[key] = link

    def follow(self, open_again: Callable[[], Members]) -> None:
        """Resolve the links to wanted images by reading the archive once more, if there are any."""
        if not self._links:
            return
        keys_of: dict[str, list[int]] = {}
        self._links = {key: self._final(link) for key, link in self._links.items()}
        for key, link in self._links.items():
            keys_of.setdefault(link.target, []).append(key)
            self.unusable[key] = f"a link to no file of the archive: {link.written[:80]!a}"
        for number, (member, content) in enumerate(open_again()):
            if not is_link(member):
                keys = [
                    key
                    for key in keys_of.get(_normal(member.name), ())
                    if (before := self._links[key].before) is None or number < before
                ]
                if keys:
                    self._place(keys, member, content)

    def _place(
        self, keys: list[int], member: tarfile.TarInfo, content: MemberContent | None
    ) -> None:
        if member.size > LARGEST_IMAGE:
            reason = f"more than {LARGEST_IMAGE:,} bytes"
        elif content is None:
            reason = "stored as a sparse file: unpack the archive"
        else:
            place = self.keep(member, content)
            for key in keys:
                self.unusable.pop(key, None)
                self.places[key] = place
            return
        self.unusable.update(dict.fromkeys(keys, reason))

    def _link(self, member: tarfile.TarInfo, number: int) -> _Link:
        written = member.linkname
        if member.islnk():
            link = _Link(written=written, target=_normal(written), before=number)
            return self._link_of.get(link.target, link)
        target = written
        if not written.startswith("/"):
            target = _normal(posixpath.join(posixpath.dirname(member.name), written))
        return _Link(written=written, target=target, before=None)

    def _final(self, link: _Link) -> _Link:
        """Follow symbolic links to the link or file at their end."""
        for _ in range(_MOST_LINKS):
            if link.before is not None or link.target not in self._link_of:
                break
            link = self._link_of[link.target]
        return link


def _normal(name: str) -> str:
    """Write a member's name as tar unpacks it, without ``./``, ``//``, ``..`` and leading ``/``."""
    return posixpath.normpath(name).lstrip("/")
