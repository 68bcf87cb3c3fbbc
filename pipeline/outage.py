"""A storage that takes nothing for a while: told from other failures, and waited for.

Ray starts workers again whose checkpoint could not be stored, but only so often, and ends a run
whose own snapshot could not be. Neither is a reason to lose a night: what is stored is whole, and
training goes on from it as soon as there is a storage again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from sharding.errors import InputError
from sharding.structured import tell


class StorageFailed(OSError):
    """The storage of the run, and no other file, could not be read or written."""


@contextlib.contextmanager
def of_the_storage() -> Iterator[None]:
    """Tell a worker's errors of the storage from those of its other files.

    Raises:
        StorageFailed: for an OSError inside.
    """
    try:
        yield
    except OSError as error:
        raise StorageFailed(str(error)) from error


def causes(error: BaseException) -> Iterator[BaseException]:
    """What is behind an error of Ray Train, from the outside in: of every worker that failed."""
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is None:
            continue
        yield cause
        waiting += getattr(cause, "worker_failures", {}).values()
        waiting.append(getattr(cause, "controller_failure", None))
        waiting.append(getattr(cause, "cause", None) or cause.__cause__)


def waited_out(
    error: BaseException,
    write: Callable[[], object],
    *,
    patience: float = 600.0,
    every: float = 2.0,
) -> bool:
    """Wait until the storage takes bytes again, if that it did not was why training ended.

    Args:
        error: Ray's.
        write: writes a small file to the storage.
        patience: seconds.
        every: seconds between attempts.

    Returns:
        Whether it is worth going on.
    """
    found = list(causes(error))
    refusal = next((each for each in found if isinstance(each, OSError)), None)
    if refusal is None or any(isinstance(each, InputError) for each in found):
        return False
    # Of a worker it may be any file that is not there: the storage has to show that it was it.
    of_worker = bool(getattr(error, "worker_failures", ()))
    named = any(isinstance(each, StorageFailed) for each in found)
    if of_worker and not named and _takes(write):
        return False
    tell(f"the storage fails ({last_line(refusal)}); waiting {patience:g} s for it", "WARNING")
    deadline = time.monotonic() + patience
    while not _takes(write):
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    tell("the storage takes bytes again: going on from the last checkpoint", "WARNING")
    return True


def last_line(error: BaseException) -> str:
    """The last line of what an error says, in short; its name where it says nothing."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else type(error).__name__


def _takes(write: Callable[[], object]) -> bool:
    try:
        write()
    except (OSError, InputError):
        return False
    return True
