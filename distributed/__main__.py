"""``python -m distributed {center,worker,status}``, ``dcenter`` and ``dworker``: the first lines of each command.

Only what has to happen before the rest of the package is imported. A setting that makes no sense is found by an import.
"""

import sys
from collections.abc import Callable


def _begin_fork_server() -> None:
    """Started by a pool or a cluster: what takes longest to come up begins before our own imports."""
    from distributed.errors import SecretUnusable
    from distributed.wire.security import find_secret
    from distributed.worker import launch

    try:
        launch.begin(launch.executor_environment(find_secret()))
    except (SecretUnusable, OSError):  # not yet, or for the agent to complain of
        pass


def _door(name: str) -> Callable[[], int]:
    """A command of `distributed.cli`; a setting in the environment that makes no sense is one line, and exit code 1."""
    try:
        if sys.argv[1:2] in (["embedded"], ["worker"]) and "--parent-fd" in sys.argv:
            _begin_fork_server()
        import distributed.config  # noqa: F401
    except ValueError as error:
        sys.exit(f"distributed: {error}")
    from distributed import cli

    door: Callable[[], int] = getattr(cli, name)
    return door


def main() -> int:
    """``python -m distributed``."""
    return _door("main")()


def dcenter() -> int:
    """The command ``dcenter``."""
    return _door("dcenter")()


def dworker() -> int:
    """The command ``dworker``."""
    return _door("dworker")()


if __name__ == "__main__":
    sys.exit(main())
