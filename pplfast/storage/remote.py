"""The file systems of fsspec, one for each store and process, shared by its threads."""

import threading
from typing import Any

from pplfast.errors import UserError

_TIMEOUT = 30  # seconds without an answer
_CONNECTIONS = 64
_S3 = {
    # Trying again is ours alone (retry.py), so that it is counted and does not multiply.
    "config_kwargs": {
        "retries": {"total_max_attempts": 1},
        "connect_timeout": 10,
        "read_timeout": _TIMEOUT,
        "max_pool_connections": _CONNECTIONS,
    },
}
_lock = threading.Lock()
_systems: dict[str, Any] = {}
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "az": "adlfs",
             "abfs": "adlfs", "http": "aiohttp", "https": "aiohttp"}  # fmt: skip


def file_system(url: str) -> Any:
    """fsspec's, of a URL. UserError for one that is not known here, with the package that knows it."""
    scheme = url.partition("://")[0].lower()
    with _lock:
        if scheme not in _systems:
            _systems[scheme] = _start(scheme, url)
        return _systems[scheme]


def _start(scheme: str, url: str) -> Any:
    try:
        import fsspec
    except ModuleNotFoundError:
        raise UserError(f"{url}: URLs need fsspec; install it with pip install 'pplfast[s3]'") from None
    options = _S3 if scheme in ("s3", "s3a") else {}
    try:
        system = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True, **options)
    except ValueError:
        raise UserError(f"{url}: no store is known as {scheme}://; known are s3://, gs://, hf:// and paths") from None
    except ImportError:
        package = _PACKAGES.get(scheme, "the package that fsspec's documentation names")
        raise UserError(f"{url}: {scheme}:// needs {package}; install it with pip install {package}") from None
    if scheme in ("s3", "s3a"):
        system.retries = 1
    return system
