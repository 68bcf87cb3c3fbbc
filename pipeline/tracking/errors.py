"""Sort MLflow's errors: one line that says what is wrong, with the fix for it.

Every backend raises its own kinds: what tells them apart is their text.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.tracking.client import tracking_uri
from sharding.errors import InputError
from sharding.log import first_line

_START = "start the server, or set MLFLOW_TRACKING_URI"
_LOG_IN = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, "
    "in this shell"
)
_STORE = "set the bucket's credentials (AWS_..., MLFLOW_S3_ENDPOINT_URL) in this shell"
_TOO_LARGE = "error code 413|413 Client Error"
_SORTS = (
    (_TOO_LARGE, "a proxy before the server takes nothing so large",
     "raise its limit (nginx: client_max_body_size)"),
    ("CERTIFICATE_VERIFY_FAILED", "the server's certificate does not hold",
     "name the authority's file in MLFLOW_TRACKING_SERVER_CERT_PATH"),
    ("SSLError", "the server does not answer by TLS", "write http:// in MLFLOW_TRACKING_URI"),
    ("NoCredentials|locate credentials|AccessDenied|S3UploadFailed|InvalidAccessKey|No module "
     "named 'boto", "the artifact store does not take files", _STORE),
    ("error code 40[13]|UNAUTHENTICATED|PERMISSION_DENIED", "the server refuses the credentials",
     _LOG_IN),
    ("ENDPOINT_NOT_FOUND|error code 404|not in a valid JSON", "no MLflow server of this version "
     "answers there", "check MLFLOW_TRACKING_URI"),
    ("unsupported URI|Invalid SQLite URL|parse SQLAlchemy URL|filesystem tracking backend",
     "MLFLOW_TRACKING_URI is no place for runs",
     "write http://HOST:PORT or sqlite:////ABSOLUTE/PATH.db"),
    ("No module named", "a package is missing for MLFLOW_TRACKING_URI", "install it"),
    ("experiment .* must be in the 'active' state", "the experiment is deleted",
     "restore it (mlflow experiments restore), or name another one"),
    ("must be in the 'active' state", "the run is deleted", "restore it (mlflow runs restore)"),
    ("Names? (?:may only|cannot)|[Nn]ame' exceeds the maximum length|Invalid (?:model )?name",
     "MLflow does not take a name", "choose another name"),
    ("exceeds the maximum length", "MLflow does not take so long a text", "shorten it"),
    ("database is locked", "other programs write to the database", "repeat the command"),
    ("failed with exception|Connection|timed out", "MLflow does not answer", _START),
)  # fmt: skip
"""Words of an error, what it means, what to do; the first that fits."""
_SCHEMA = re.compile(r"out-of-date database schema \(found version (\w+)")


@contextlib.contextmanager
def mlflow_errors(problem: str, fix: str = _START) -> Iterator[None]:
    """Raise every error of MLflow in the block as one `InputError`.

    Args:
        problem: what could not be done.
        fix: what to do about it, where the error is of none of the kinds known here.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        meaning, known_fix = sort_error(error) or ("", fix)
        reason = f": {meaning}" if meaning else ""
        raise InputError(
            f"{problem}{reason} ({first_line(error)})", file=tracking_uri(), fix=known_fix
        ) from None


def sort_error(error: Exception) -> tuple[str, str] | None:
    """Find out what an error of MLflow means, and what to do; None where that is not known."""
    code = getattr(error, "error_code", "")
    text = f"{type(error).__name__} {code} {error}"
    if found := _SCHEMA.search(text):
        return _other_schema(found[1])
    return next(((what, fix) for words, what, fix in _SORTS if re.search(words, text)), None)


def is_lasting(error: Exception) -> bool:
    """Tell an error that comes again with every attempt; a deleted run may be restored.

    A 404 is none: a proxy gives it while the server behind it is started. A 413 is one: a proxy
    before the server takes no body of this size.
    """
    if re.search(_TOO_LARGE, str(error)):
        return True
    lasting = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
    return getattr(error, "error_code", "") in lasting and "'active' state" not in str(error)


def is_missing_endpoint(error: Exception) -> bool:
    """Tell the error of a server that does not know what it was asked for, or of its proxy."""
    return getattr(error, "error_code", "") == "ENDPOINT_NOT_FOUND"


def is_absent(error: Exception) -> bool:
    """Tell the error of a server that does not have what it was asked for."""
    absent = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
    return getattr(error, "error_code", "") in absent


def _other_schema(version: str) -> tuple[str, str]:
    import mlflow

    revisions = Path(mlflow.__file__).parent / "store/db_migrations/versions"
    if any(revisions.glob(f"{version}_*")):
        upgrade = f"copy the database, then run: mlflow db upgrade {tracking_uri()}"
        return "its database was made by an older MLflow", upgrade
    newer = f"install the MLflow that made it; here it is {mlflow.__version__}"
    return "its database was made by a newer MLflow", newer
