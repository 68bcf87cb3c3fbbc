"""Find the images that a takedown names, by ids or by the file names of an imported collection."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sharding import log
from sharding.dataset.label_versions import all_labels
from sharding.dataset.members import Members
from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.image_ids import Ids, format_image_ids, parse_image_ids
from sharding.layout import NAMES_FILE, NAMES_HASH, QUARANTINE_FILE, UNFINISHED_REMOVAL
from sharding.log import count
from sharding.manifest import Dataset, Manifest
from sharding.sources.named import Names, image_id_of
from sharding.sources.spelling import NameIndex, normal
from sharding.storage.files import refuse_changed


@dataclass(frozen=True, kw_only=True)
class _Line:
    """Hold what one line or option names, and where it stands."""

    text: str
    file: Path | None = None
    row: int | None = None

    def error(self, problem: str, fix: str) -> InputError:
        return InputError(problem, file=self.file, row=self.row, fix=fix)


def read_asked(ids: Sequence[str], file: Path | None, dataset: Dataset) -> dict[str, str]:
    """Read which images are asked for: as they were written, by id.

    Raises:
        InputError: no image is named, an id is malformed, a name may be of several images, the file
            cannot be read, or the table of names is damaged.
    """
    asked: dict[str, str] = {}
    names: list[_Line] = []
    lines = _lines(ids, file)
    if not lines:
        raise InputError(
            "names no image", file=file or "--ids", fix="name one a line, or with --ids"
        )
    for line in lines:
        try:
            parse_image_ids([line.text])
        except InputError as error:
            if NAMES_HASH not in dataset.manifest.created_by:
                raise line.error(error.problem, "give ids of the dataset") from None
            names.append(line)
        else:
            asked.setdefault(line.text, line.text)
    for image_id, line in _ids_of_names(names, dataset):
        asked.setdefault(image_id, f"{line.text!r:.200}")
    return asked


def how_to_finish(manifest: Manifest) -> str | None:
    """Say how a removal that was killed is ended; None where there is none.

    The table of names may have forgotten by now what the killed command had found in it.
    """
    if UNFINISHED_REMOVAL not in manifest.created_by or not manifest.removed:
        return None
    return f"repeat the removal that was killed: --ids {manifest.removed[0]}"


def unknown_ids(dataset: Dataset, asked_M: Ids, members: Iterable[Members]) -> list[str]:
    """Find the ids that neither tars, tables, the quarantine nor the removed images have."""
    aside = Quarantine.read(dataset.directory / QUARANTINE_FILE).images().entries
    known = [dataset.manifest.removed_ids, parse_image_ids([entry.image_id for entry in aside])]
    known += [part.image_ids_N for part in members]
    known += [
        all_labels(dataset, split, name).image_ids_N
        for name, version in dataset.manifest.labels.items()
        for split in version.splits
    ]
    return format_image_ids(asked_M[~np.isin(asked_M, np.concatenate(known))])


def _lines(ids: Sequence[str], file: Path | None) -> list[_Line]:
    lines: list[str] = []
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"no list of ids ({error})", file=file) from None
    listed = [_Line(text=text.strip(), file=file, row=n) for n, text in enumerate(lines, start=1)]
    return [line for line in (*listed, *(_Line(text=text.strip()) for text in ids)) if line.text]


def _ids_of_names(lines: Sequence[_Line], dataset: Dataset) -> list[tuple[str, _Line]]:
    """Find the id of each name; one that the collection lacks has that of its own spelling."""
    if not lines:
        return []
    path, manifest = dataset.directory / NAMES_FILE, dataset.manifest
    if UNFINISHED_REMOVAL not in manifest.created_by:  # which may have replaced the table already
        refuse_changed(path, manifest.created_by[NAMES_HASH])
    id_of = {n: key for part in Names.read(path).by_split.values() for key, n in part.items()}
    index, removed = NameIndex(id_of), frozenset(manifest.removed or ())
    fix = how_to_finish(manifest)
    found = [(line, *_find(line, id_of, index, removed, fix)) for line in lines]
    _tell_spellings(found, id_of, index)
    return [(image_id, line) for line, image_id, _ in found]


def _tell_spellings(
    found: Sequence[tuple[_Line, str, str | None]], id_of: Mapping[str, str], index: NameIndex
) -> None:
    """Log which images were found in another spelling, and which stay that differ in it alone."""
    named = [(line, name) for line, _, name in found if name is not None]
    respelled = [
        f"{line.text!r:.200} is {name!r}"
        for line, name in named
        if name not in (line.text, normal(line.text))
    ]
    if respelled:
        what = f"{count(len(respelled), 'name')} found in another spelling"
        log.info(f"{what}: {', '.join(respelled[:5])}")
    gone = {image_id for _, image_id, _ in found}
    twins = [each for _, name in named for each in index.alike(name) if id_of[each] not in gone]
    if twins:
        what = f"{count(len(twins), 'image')} whose names differ in spelling alone stay"
        said = f"{what}: {', '.join(map(repr, twins[:5]))}; name them too if they are the same"
        log.info(said, "WARNING")


def _find(
    line: _Line,
    id_of: Mapping[str, str],
    index: NameIndex,
    removed: Collection[str],
    first: str | None,
) -> tuple[str, str | None]:
    """Find id and name of the image that a line names; the name is None where there is none now.

    What is taken down is gone for good, so that a path with more folders, or fewer, is an error;
    its fix is ``first``, where something has to be done first.
    """
    own = image_id_of(normal(line.text))
    if own in removed:  # the table of names has forgotten it
        return own, None
    names = index.named(line.text)
    if len(names) > 1:
        several = " or ".join(map(repr, names[:3]))
        raise line.error(f"{line.text!r:.200} may be {several}", "write the one that is meant")
    if names:
        return id_of[names[0]], names[0]
    if near := index.ending_alike(line.text):
        problem = f"no image is called {line.text!r:.200}, but {near[0]!r} ends alike"
        raise line.error(problem, first or "write that if it is meant, else leave this out")
    return own, None
