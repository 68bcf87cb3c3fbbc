"""A storage that takes nothing for a while: told from other failures, and waited for.

Ray starts workers again whose checkpoint could not be stored, but only so often, and ends a run
whose own snapshot could not be. Neither is a reason to lose a night: what is stored is whole, and
training goes on from it as soon as there is a storage again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from sharding.errors import InputError
from sharding.structured import tell


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
    refusal = next((each for each in causes(error) if isinstance(each, OSError)), None)
    if refusal is None or any(isinstance(each, InputError) for each in causes(error)):
        return False
    tell(f"the storage fails ({_line(refusal)}); waiting {patience:g} s for it", "WARNING")
    deadline = time.monotonic() + patience
    while True:
        try:
            write()
        except (OSError, InputError):
            if time.monotonic() > deadline:
                return False
            time.sleep(every)
        else:
            tell("the storage takes bytes again: going on from the last checkpoint", "WARNING")
            return True


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:200]
