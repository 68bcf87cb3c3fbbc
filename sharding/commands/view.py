"""Run the view job: a page of thumbnails with labels, of a shard or of what a query selects."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from sharding import decode
from sharding.classes import ClassTable
from sharding.commands.options import ViewOptions
from sharding.commands.workspace import Workspace
from sharding.dataset.lookup import read_credits, read_images
from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError, unknown
from sharding.image_ids import format_image_ids
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED, LabelTable
from sharding.layout import QUARANTINE_FILE, SPLITS, shard_path
from sharding.log import count
from sharding.manifest import Dataset
from sharding.progress import Progress
from sharding.storage.files import replacing
from sharding.storage.retry import BadImage
from sharding.thumbnails import breakable, thumbnail

_STATES = {"positive": POSITIVE, "negative": NEGATIVE, "unobserved": UNOBSERVED}
_PICTURE_BYTES = 12_000_000
"""Of all thumbnails of a page, which leaves 3 MB to its text."""
_MOST_NAMED = 30
"""Labels of a state that are named for an image; the rest is counted."""
_NONE_SET_ASIDE = "nothing was set aside"


@dataclass(frozen=True, kw_only=True)
class Viewed:
    """Describe the page that was written."""

    output: Path
    shown: int
    matching: int

    def __str__(self) -> str:
        if not self.matching:
            return f"{_NONE_SET_ASIDE}: {self.output} says so"
        size = self.output.stat().st_size / 1e6
        return f"{_shown(self.shown, self.matching, 'image')}: {self.output} ({size:.1f} MB)"


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """Rows of a split's label table that match a query."""

    split: str
    table: LabelTable
    rows_M: np.ndarray


def view(options: ViewOptions, workspace: Workspace | None = None) -> Viewed:
    """Write the page.

    Raises:
        InputError: there is no such dataset, shard, split, class or label version, nothing matches,
            or the page cannot be written.
    """
    workspace = workspace or Workspace(Path(options.dataset))
    dataset = Dataset.open(workspace.directory)
    if options.reason is not None:
        cards, notes, matching = _set_aside(dataset, options)
    else:
        cards, notes, matching = _images(dataset, options, workspace)
    if not cards and notes != [_NONE_SET_ASIDE]:
        raise InputError(
            "nothing in the dataset matches",
            file=workspace.location,
            fix="name another shard, split, class, state or reason",
        )
    title = f"{dataset.manifest.name}: {_query(options)}"
    with replacing(options.output) as temporary:
        temporary.write_text(_page(title, notes, cards), encoding="utf-8")
    return Viewed(output=options.output, shown=len(cards), matching=matching)


def _images(
    dataset: Dataset, options: ViewOptions, workspace: Workspace
) -> tuple[list[str], list[str], int]:
    """Make the cards of the images that match, the page's notes, and count what matches."""
    chosen = list(_choose(dataset, options))
    matching = sum(len(part.rows_M) for part in chosen)
    left, cards, bucket = options.limit, [], workspace.workers(map).bucket
    budget = _PICTURE_BYTES // max(1, min(matching, options.limit))
    counts: Counter[str] = Counter()
    with Progress(min(matching, options.limit), "view", "image") as progress:
        for part in chosen:
            rows_M = part.rows_M[:left]
            left -= len(rows_M)
            ids = format_image_ids(part.table.image_ids_N[rows_M])
            credits = read_credits(dataset, ids)
            pictures = {}
            for image_id, content in read_images(dataset, part.split, ids, options.name, bucket):
                pictures[image_id] = _picture(content, budget)
                progress.advance()
            for image_id, row in zip(ids, rows_M.tolist(), strict=True):
                labels = _labels(part.table, row, dataset.classes, counts)
                place = f"{part.split}, {Path(part.table.shards[row]).stem}"
                credit = credits.get(image_id, "")
                cards.append(_card(pictures[image_id], image_id, place, labels, credit))
    entries = len(cards) * len(dataset.classes)
    unobserved = entries - counts["positive"] - counts["negative"]
    notes = [
        f"{_shown(len(cards), matching, 'image')}; labels {dataset.label_version(options.name)[0]}",
        f"{count(counts['positive'], 'positive')}, {count(counts['negative'], 'negative')}, "
        f"{unobserved:,} unobserved; {count(len(dataset.classes), 'class')} for each image",
    ]
    return cards, notes, matching


def _choose(dataset: Dataset, options: ViewOptions) -> Iterator[_Chosen]:
    """Select the rows of the images that the options ask for, by split."""
    tar = None if options.shard is None else shard_path(Path(options.shard).stem)
    records = {shard.path: shard.split for shard in dataset.manifest.shards}
    if tar is not None and tar not in records:
        names = [Path(path).stem for path in records]
        raise unknown("shard", options.shard or "", names, listed="dataset.json lists them")
    if options.split is not None:
        dataset.shards(options.split)
    splits = {options.split or split for split in records.values()}
    wanted = None if options.class_name is None else _class(dataset.classes, options.class_name)
    labelled = dataset.label_version(options.name)[1].splits.keys()
    for split in sorted(splits & labelled, key=SPLITS.index):
        if tar is not None and records[tar] != split:
            continue
        table = dataset.labels(split, options.name)
        keep_N = np.ones(len(table), np.bool_)
        if tar is not None:
            keep_N &= np.asarray(table.shards) == tar
        if wanted is not None:
            keep_N &= _states_of(table, wanted) == _STATES[options.state]
        yield _Chosen(split=split, table=table, rows_M=np.flatnonzero(keep_N))


def _class(classes: ClassTable, name: str) -> int:
    """Find a class by MID, or by name in any case."""
    if name in classes.index_of:
        return classes.index_of[name]
    named = [k for k, known in enumerate(classes.names) if known.casefold() == name.casefold()]
    if not named:
        some = ", ".join(classes.names[:3])
        listed = f"classes.parquet lists them, such as {some}"
        raise unknown("class", name, classes.names, listed=listed)
    if len(named) > 1:
        mids = ", ".join(classes.mids[k] for k in named)
        raise InputError(f"{len(named)} classes are called {name!r}", fix=f"name one of {mids}")
    return named[0]


def _states_of(table: LabelTable, k: int) -> np.ndarray:
    """Look up the state of one class in every image (int8, N)."""
    states_N = np.full(len(table), UNOBSERVED, np.int8)
    entries = table.entries()
    is_class_E = entries.classes_E == k
    states_N[entries.rows_E[is_class_E]] = entries.states_E[is_class_E]
    return states_N


def _picture(content: bytes, budget: int) -> str:
    try:
        photo = Image.fromarray(decode.read(content))
    except BadImage as error:
        return f'<div class="none">{html.escape(str(error))}</div>'
    return f'<img alt="" src="{thumbnail(photo, budget)}">'


def _labels(table: LabelTable, row: int, classes: ClassTable, counts: Counter[str]) -> str:
    """Write an image's labels, positives first."""
    observed = table.observed(np.array([row]))
    parts = []
    for state, tag in (("positive", "b"), ("negative", "i")):
        of_state = observed.classes_E[observed.states_E == _STATES[state]].tolist()
        counts[state] += len(of_state)
        parts += [f"<{tag}>{html.escape(classes.names[k])}</{tag}>" for k in of_state[:_MOST_NAMED]]
        if len(of_state) > _MOST_NAMED:
            parts.append(f"and {len(of_state) - _MOST_NAMED:,} more {state} ")
    return "".join(parts) or '<span class="quiet">nothing observed</span>'


def _set_aside(dataset: Dataset, options: ViewOptions) -> tuple[list[str], list[str], int]:
    """Make a card of every entry of the quarantine whose reason has the words asked for."""
    quarantine = Quarantine.read(dataset.directory / QUARANTINE_FILE).entries
    if not quarantine:
        return [], [_NONE_SET_ASIDE], 0
    entries = [
        entry
        for entry in quarantine
        if (options.reason or "").casefold() in entry.reason.casefold()
        and options.split in (None, entry.split)
    ]
    reasons = Counter(entry.reason.partition(":")[0] for entry in entries)
    cards = [
        _card(
            f'<div class="none">{html.escape(entry.reason)}</div>',
            entry.image_id,
            entry.split,
            "",
            entry.source,
        )
        for entry in entries[: options.limit]
    ]
    notes = [
        f"{_shown(len(cards), len(entries), 'entry')} of what was set aside",
        ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common()),
    ]
    return cards, notes, len(entries)


def _card(picture: str, image_id: str, place: str, labels: str, credit: str) -> str:
    texts = [f"<code>{html.escape(image_id)}</code> {html.escape(place)}", breakable(credit)]
    quiet = "".join(f'<p class="quiet">{text}</p>' for text in texts if text)
    named = f"<p>{labels}</p>" if labels else ""
    return f'<article tabindex="0">{picture}<div class="text">{named}{quiet}</div></article>'


def _page(title: str, notes: Sequence[str], cards: Sequence[str]) -> str:
    text = resources.files(__package__).joinpath("view_page.html").read_text(encoding="utf-8")
    filled = {
        "TITLE": html.escape(title),
        "NOTES": "\n".join(f"<p>{html.escape(note)}</p>" for note in notes),
        "CARDS": "\n".join(cards),
    }
    return re.sub("TITLE|NOTES|CARDS", lambda name: filled[name[0]], text)


def _query(options: ViewOptions) -> str:
    if options.reason is not None:
        return f"set aside {options.reason}".rstrip()
    parts = [options.shard, options.split]
    if options.class_name is not None:
        parts.append(f"{options.class_name} {options.state}")
    return ", ".join(filter(None, parts)) or "all images"


def _shown(shown: int, matching: int, unit: str) -> str:
    of_all = "" if shown == matching else f"the first {shown:,} of "
    return of_all + (f"{matching:,} entries" if unit == "entry" else count(matching, unit))
