"""A local object store for the tests of a module, in this process's environment and that of what it starts."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pplfast.benchmarks.object_store import Store, local_store
from pplfast.storage import remote, retry


@contextmanager
def connected(store: Store) -> Iterator[None]:
    """File systems of other stores, and what they did not answer, are forgotten before and after."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        patch.setattr(remote, "_systems", {})
        patch.setattr(retry, "UNREACHABLE", retry.Unreachable())
        yield


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """Without faults; a test that sets some takes them back."""
    with local_store() as started, connected(started):
        yield started
