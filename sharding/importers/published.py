"""How many images the papers train, validate and test on: a check that a collection is whole."""

from __future__ import annotations

from collections.abc import Mapping

from sharding.manifest import SPLITS, Manifest

COUNTS: Mapping[str, tuple[int, int, int]] = {
    "voc2012": (4_574, 1_143, 5_823),
    "coco2014": (65_665, 16_416, 40_137),
    "nuswide": (120_000, 30_000, 60_260),
    "cub2011": (4_795, 1_199, 5_794),
}
"""Images in `SPLITS`, by release. NUS-WIDE's are those of the papers' own lists."""


def comparison(manifest: Manifest) -> str | None:
    """One line on the papers' counts; None where there are none, or another split was asked for."""
    version = next(iter(manifest.labels.values()))
    expected = COUNTS.get(version.release)
    drawn = version.policy.get("validation", {})
    if expected is None or (drawn.get("share"), drawn.get("seed")) != (0.2, 1200):
        return None
    told = "the papers count " + " / ".join(f"{count:,}" for count in expected)
    found = tuple(
        version.splits[split].images if split in version.splits else 0 for split in SPLITS
    )
    if found == expected:
        return f"{told}, as here"
    if version.policy.get("lists") == "official":
        return f"{told} in lists of their own, not the official ones read here"
    return f"{told}, here it is " + " / ".join(f"{count:,}" for count in found)
