"""Read the class list of a dump and the display names of its classes, as published.

The index of a class is the line number of its MID; Google's order ignores `_` and is no plain
sort, so the list is never sorted again. Descriptions mix line ends, quote some names, and have a
header from V6 on. Names are not unique; MIDs are.
"""

from __future__ import annotations

import csv
import io

from sharding.openimages.dump import Dump
from sharding.openimages.dump_files import DumpFile
from sharding.openimages.row_status import is_mid

_HEADER = ["LabelName", "DisplayName"]


def read_classes(dump: Dump) -> list[tuple[str, str]]:
    """Read (MID, name) of every trainable class, in list order; the MID where it has no name.

    Raises:
        InputError: a file is missing or malformed, or the list repeats a MID.
    """
    names = read_descriptions(dump.descriptions_file)
    return [(mid, names.get(mid, mid)) for mid in read_mids(dump.class_list_file)]


def read_mids(file: DumpFile) -> list[str]:
    """Read the MIDs of a class list, one a line, in file order.

    Raises:
        InputError: a line is no MID, or repeats one, or there is none.
    """
    rows: dict[str, int] = {}
    for row, line in enumerate(io.StringIO(file.read_text(), newline=None), start=1):
        mid = line.rstrip("\n")
        if not mid:
            continue
        if not is_mid(mid.encode()):
            fix = "give one MID a line, such as /m/01yrx"
            raise file.error(f"{mid[:80]!r} is not a MID", row=row, fix=fix)
        if mid in rows:
            fix = "remove one of the two; the class index is the line number"
            raise file.error(f"{mid} is already on line {rows[mid]}", row=row, fix=fix)
        rows[mid] = row
    if not rows:
        raise file.error("the class list is empty", fix="give one MID a line")
    return list(rows)


def read_descriptions(file: DumpFile) -> dict[str, str]:
    """Read names by MID, in file order.

    Raises:
        InputError: a row is not ``MID,name``, or repeats a MID.
    """
    names: dict[str, str] = {}
    reader = csv.reader(io.StringIO(file.read_text(), newline=""), strict=True)
    try:
        for cells in reader:
            if not cells or (reader.line_num == 1 and cells == _HEADER):
                continue
            if len(cells) != 2 or not is_mid(cells[0].encode()) or cells[0] in names:
                raise csv.Error(f"{','.join(cells)[:80]!r} is not a new MID and its name")
            names[cells[0]] = cells[1]
    except csv.Error as error:
        fix = "give rows of MID,name; quote a name that holds a comma or a quote"
        raise file.error(str(error), row=reader.line_num, fix=fix) from None
    return names
