"""A start is quick because little is imported: who loads what, and who must not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from distributed.config import Settings
from distributed.wire.credential import find_or_create_credential

if TYPE_CHECKING:
    from distributed import Pool

HEAVY = {"tornado", "numpy", "multiprocessing", "http", "email", "xml", "unittest", "distutils", "setuptools"}
LOOPS = {"asyncio", "concurrent", "ssl", "tornado"}
CLIENT = "distributed.pool.pool, distributed.pool.progress, distributed.cluster.local"
DAEMON = "distributed.cli, distributed.center.server, distributed.worker.server"


def loaded(statement: str) -> set[str]:
    """The modules that this loads into a fresh interpreter, beside what that starts with."""
    program = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def among(modules: set[str], unwanted: set[str]) -> set[str]:
    return {name for name in modules if any(name == short or name.startswith(f"{short}.") for short in unwanted)}


def test_the_package_alone_loads_nothing_but_its_version() -> None:
    modules = loaded("import distributed")
    assert among(modules, {"distributed"}) == {"distributed", "distributed.version"}
    assert not among(modules, HEAVY | LOOPS | {"cloudpickle", "msgpack", "toolz", "platform", "dataclasses"})


def test_a_public_name_loads_what_it_needs_only_when_it_is_used() -> None:
    assert not among(loaded("from distributed import Pool"), {"distributed.center", "distributed.rpc"})
    assert "distributed.rpc" in loaded("from distributed import rpc")


def test_a_client_loads_no_server_and_nothing_of_daemons() -> None:
    modules = loaded(f"import {CLIENT}")
    assert not among(modules, HEAVY | {"distributed.center", "distributed.worker", "distributed.comm", "argparse"})
    assert not among(modules, {"asyncio", "ssl", "toolz"})


def test_daemons_without_a_status_page_load_no_server_of_pages() -> None:
    modules = loaded(f"import {DAEMON}")
    assert not among(modules, HEAVY | {"distributed.pool", "distributed.web.status"})


def test_what_executors_are_forked_from_has_neither_loop_nor_secret_nor_agent() -> None:
    modules = loaded("import distributed.worker.forkserver, distributed.worker.executor")
    assert not among(modules, HEAVY | LOOPS | {"subprocess", "json", "argparse"})
    ours = {"distributed.wire.security", "distributed.pool", "distributed.center", "distributed.cluster"}
    assert not among(modules, ours | {"distributed.worker.server", "distributed.worker.state", "distributed.cli"})


def test_nor_has_an_executor_that_runs_tasks(pool: Pool) -> None:
    modules = set(pool.apply(lambda: list(sys.modules)))
    assert "distributed.worker.executor" in modules
    assert not among(modules, HEAVY | LOOPS | {"distributed.wire.security", "distributed.pool"})


def test_the_module_that_is_run_loads_no_daemon_before_it_knows_which() -> None:
    modules = loaded("import distributed.cli")
    assert not among(modules, HEAVY | {"distributed.center", "distributed.worker", "distributed.pool"})


def test_a_setting_that_does_not_exist_is_refused() -> None:
    assert Settings(window_bytes_max=500).window_bytes_max == 500
    assert Settings().window_bytes_max == Settings.__dataclass_fields__["window_bytes_max"].default
    with pytest.raises(TypeError, match="there is no setting 'windows'"):
        Settings(windows=1)


def test_only_who_has_a_credential_loads_what_encrypts(tmp_path: Path) -> None:
    program = (
        "from distributed.connect import connect_blocking; from distributed.bulk import BulkClient;"
        "from distributed.wire.security import find_or_create_secret;"
        f"found = find_or_create_secret({str(tmp_path / 'secret')!r}); assert found.credential is None"
    )
    assert not among(loaded(program), {"ssl", "cryptography", "distributed.tls", "distributed.wire.credential"})
    find_or_create_credential(tmp_path / "tls.pem")
    program = program.replace("is None", "is not None")
    modules = loaded(program)
    assert "ssl" in modules
    assert not among(modules, {"cryptography", "asyncio"})
