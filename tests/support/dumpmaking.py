"""Write small annotation dumps in the file layout of any release."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

HEADER = "ImageID,Source,LabelName,Confidence"
MIDS = ("/m/0a", "/m/0b", "/m/0c", "/m/0_d")
IDS = tuple(f"{number:016x}" for number in (0x1, 0xABCDEF, 0x123E5, 0xFFFFFFFFFFFFFFFF))


def _of_splits(pattern: str) -> dict[str, str]:
    return {split: pattern.format(split) for split in ("train", "validation", "test")}


_V5, _V7 = (
    "v5/{}-annotations-human-imagelabels.csv",
    "v7/oidv7-{}-annotations-human-imagelabels.csv",
)
# Files of labels by split, and of classes, below a dump's folder.
LABELS = {
    "v3": _of_splits("2017_11/{}/annotations-human.csv"),
    "v4": _of_splits("2018_04/{0}/{0}-annotations-human-imagelabels.csv"),
    "v5": _of_splits(_V5),
    "v6": {**_of_splits(_V5), "train": "v6/oidv6-train-annotations-human-imagelabels.csv"},
    "v7": {**_of_splits(_V7), "validation": _V7.format("val")},
    "export": _of_splits("corrections/{}.csv"),
}
CLASSES = {
    "v3": ("2017_11/classes-trainable.txt", "2017_11/class-descriptions.csv"),
    "v4": ("2018_04/classes-trainable.txt", "2018_04/class-descriptions.csv"),
    "v5": ("v5/classes-trainable.txt", "v5/class-descriptions.csv"),
    "v6": ("v6/oidv6-classes-trainable.txt", "v6/oidv6-class-descriptions.csv"),
    "v7": ("v7/oidv7-classes-trainable.txt", "v7/oidv7-class-descriptions.csv"),
}


def write_labels(
    folder: Path, rows: Mapping[str, Sequence[str]], release: str = "v3", header: str = HEADER
) -> Path:
    """Write rows of text per split; return the folder."""
    for split, lines in rows.items():
        path = folder / LABELS[release][split]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(f"{line}\n" for line in (header, *lines)).encode())
    return folder


def write_classes(
    folder: Path, mids: Sequence[str] = MIDS, release: str = "v3", descriptions: str = ""
) -> Path:
    """Write the class list and the descriptions; return the folder."""
    mid_file, names_file = (folder / name for name in CLASSES[release])
    mid_file.parent.mkdir(parents=True, exist_ok=True)
    mid_file.write_text("".join(f"{mid}\n" for mid in mids))
    names_file.write_text(descriptions or "".join(f"{mid},name of {mid}\n" for mid in mids))
    return folder


def pack_gz(folder: Path) -> None:
    """Turn every table under the folder into its `.gz`."""
    for path in [p for p in folder.rglob("*") if p.suffix in (".csv", ".txt")]:
        with gzip.open(f"{path}.gz", "wb") as packed:
            packed.write(path.read_bytes())
        path.unlink()


def pack_tar_gz(folder: Path, archive: Path, names: Sequence[str]) -> None:
    """Pack the files named, in the order named, as Google's archives are."""
    with tarfile.open(archive, "w:gz") as packed:
        for name in names:
            packed.add(folder / name, arcname=name)
