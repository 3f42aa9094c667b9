"""``python -m distributed {center,worker,status}``."""

import sys


def _begin_fork_server() -> None:
    """Started by a pool or a cluster: what takes longest to come up begins before our own imports."""
    from distributed.errors import SecretUnusable
    from distributed.wire.security import find_secret
    from distributed.worker import launch

    try:
        launch.begin(launch.executor_environment(find_secret()))
    except (SecretUnusable, OSError):  # not yet, or for the agent to complain of
        pass


def _main() -> int:
    if sys.argv[1:2] in (["embedded"], ["worker"]) and "--parent-fd" in sys.argv:
        _begin_fork_server()
    from distributed.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(_main())
