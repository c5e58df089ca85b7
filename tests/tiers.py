"""Two tiers of tests: `--tier quick` is what `make check` runs, `--tier rest` all others. Without it every test runs.

Of the rest is a test that starts a process, or that takes more than about a second with the fixtures it is the first to
ask for. It is marked `process` or `slow`, or named in REST, by itself or by such a fixture. guard.py holds the quick
tier to it: a new test that belongs to the rest, and does not say so, fails there.
"""

from collections.abc import Iterator

import pytest
from guard import Guard

ALL = ("*",)  # a module of which every test is of the rest
REST = {
    "test_bench_cuda_branches": ALL,
}
MARKS = ("process", "slow")


def of_the_rest(item: pytest.Item) -> bool:
    named = set(REST.get(item.path.stem, ()))
    own = {*ALL, getattr(item, "originalname", item.name), *getattr(item, "fixturenames", ())}
    return bool(named & own) or any(item.get_closest_marker(mark) for mark in MARKS)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier", choices=("quick", "rest"), help="quick: without those that start processes or take long")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "process: starts a process; not part of `make check`")
    config.addinivalue_line("markers", "slow: takes more than about a second; not part of `make check`")


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    tier = config.getoption("tier")
    if tier is None:
        return
    rest = [item for item in items if of_the_rest(item)]
    left_out = set(rest) if tier == "quick" else set(items) - set(rest)
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]
    if tier == "quick":
        config.pluginmanager.register(QuickTier())


class QuickTier:
    def __init__(self) -> None:
        self.guard = Guard()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Iterator[None]:
        self.guard.begin()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        result = yield
        if complaint := self.guard.complaint():  # also where the test, or what it tests, caught the exception
            pytest.fail(f"{item.nodeid} {complaint}", pytrace=False)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Iterator[None]:
        try:
            return (yield)
        finally:
            self.guard.end()
