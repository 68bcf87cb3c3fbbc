"""The command that made a dataset, repeated: what was lost is made again from dump and images."""

from __future__ import annotations

from sharding.beside import CLASSES_FILE, CLASSES_HASH, broken_beside
from sharding.files import sha256_of
from sharding.manifest import Manifest
from sharding.prepare import Job


def write_beside(job: Job) -> dict[str, str]:
    """Write what follows from the dump alone; what the manifest's ``created_by`` says of it."""
    job.classes.write(job.output / CLASSES_FILE)
    extras = job.write_extras(job.output)
    return {CLASSES_HASH: sha256_of(job.output / CLASSES_FILE), **extras}


def restore_beside(job: Job, manifest: Manifest) -> Manifest:
    """Make class list, rotations and names what they were, where they are not."""
    if not list(broken_beside(job.output, manifest)):
        return manifest
    # Another version of Arrow may write the same content in other bytes.
    restored = manifest.saying(**write_beside(job))
    if restored != manifest:
        restored.write(job.output)
    return restored
