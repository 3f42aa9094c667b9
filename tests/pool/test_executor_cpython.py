"""CPython's own tests of executors, run against ours. Which of them do not apply, and why, is listed here.

The standard library's tests are not part of every installation: Debian has them in ``libpython3.11-testsuite``.
"""

from __future__ import annotations

import contextlib
import importlib
import pathlib
import sys
import unittest
from typing import Any

import pytest

from distributed import Executor

pytestmark = [pytest.mark.slow, pytest.mark.versions]

PACKAGE = "test_concurrent_futures"  # up to Python 3.11 a module

LABELLED = "what a task prints is shown with its worker's name before it; see test_executor.py for work at exit"
NAMES_CLASSES = "starts the standard library's classes by their names; see test_executor.py"
PRIVATE = "looks at private attributes of the standard library's classes"
INHERITS = "passes a semaphore, lock or manager that only a child of the calling process can inherit"
NOT_APPLICABLE = {
    "test_interpreter_shutdown": LABELLED,
    "test_hang_gh83386": LABELLED,
    "test_submit_after_interpreter_shutdown": NAMES_CLASSES,
    "test_processes_terminate": PRIVATE,
    "test_context_manager_shutdown": PRIVATE,
    "test_del_shutdown": PRIVATE,
    "test_shutdown_no_wait": PRIVATE,
    "test_killed_child": "a process that is killed costs the call in it an attempt, and breaks nothing",
    "test_traceback": "its cause is our RemoteTraceback and not the private class of the standard library",
    "test_ressources_gced_in_workers": INHERITS,
    "test_saturation": INHERITS,
    "test_idle_process_reuse_one": "executors are there from the start",
    "test_idle_process_reuse_multiple": "executors are there from the start",
    "test_max_tasks_per_child": "max_tasks_per_child is the standard library's cure for leaks; ours is Pool.restart",
    "test_max_tasks_per_child_defaults_to_spawn_context": "see test_max_tasks_per_child",
    "test_max_tasks_early_shutdown": "see test_max_tasks_per_child",
    "test_process_fork_from_a_threadpool": "starts the standard library's classes by their names",
    "test_python_finalization_error": PRIVATE,
    "test_force_shutdown_workers": "terminate_workers and kill_workers are the standard library's own",
}


def load(part: str) -> Any:
    """The module with a part of CPython's tests."""
    names = (f"test.{PACKAGE}.{part}", f"test.{PACKAGE}", PACKAGE)
    installed = pathlib.Path("/usr/lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "test")
    if (installed / f"{PACKAGE}.py").exists() and str(installed) not in sys.path:
        sys.path.append(str(installed))  # and so on the executors', which import the functions from there
    for name in names:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    package = f"libpython{sys.version_info.major}.{sys.version_info.minor}-testsuite"
    pytest.skip(f"CPython's own tests are not installed for this Python (Debian: {package})", allow_module_level=True)


def in_any_context(max_workers: int | None = None, mp_context: object = None, **options: Any) -> Executor:
    """Ours, whose processes are none of this one's: no context says how to make them."""
    return Executor(max_workers=max_workers, **options)


class OurExecutor:
    """Makes CPython's tests use ours, as its own mixins do for threads and processes."""

    executor_type = staticmethod(in_any_context)
    ctx = "spawn"  # for what the tests ask their context themselves
    worker_count = 4
    executor_kwargs: dict[str, Any] = {}

    def setUp(self) -> None:
        self.executor = Executor(max_workers=self.worker_count, **self.executor_kwargs)

    def tearDown(self) -> None:
        self.executor.shutdown(wait=True)

    def get_context(self) -> Any:
        import multiprocessing

        return multiprocessing.get_context(self.ctx)


def applied(part: str, name: str) -> type[unittest.TestCase]:
    """One of CPython's classes of tests with our executor, without what does not apply."""
    theirs = getattr(load(part), name)
    left_out = dict.fromkeys(NOT_APPLICABLE)
    bases = [base for base in theirs.__mro__ if base.__name__ in (name, "ExecutorTest", "ExecutorShutdownTest")]
    return type(f"Test{name}", (OurExecutor, *bases, unittest.TestCase), left_out)


TestExecutor = applied("test_process_pool", "ProcessPoolExecutorTest")
TestShutdown = applied("test_shutdown", "ProcessPoolShutdownTest")
TestWait = applied("test_wait", "WaitTests")
TestAsCompleted = applied("test_as_completed", "AsCompletedTests")


class TestInitializer(OurExecutor, unittest.TestCase):
    """CPython's test of an initializer that works."""

    worker_count = 2
    executor_kwargs = {"initializer": load("test_init").init, "initargs": ("initialized",)}
    test_initializer = load("test_init").InitializerMixin.test_initializer


class TestFailingInitializer(OurExecutor, unittest.TestCase):
    """CPython's test of an initializer that raises; the log line that it looks for is ours, and has its own words."""

    worker_count = 2
    executor_kwargs = {"initializer": load("test_init").init_fail}
    test_initializer = load("test_init").FailingInitializerMixin.test_initializer

    def _assert_logged(self, message: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()
