"""The cluster that this program was started in, if it was: what `Pool()` joins instead of starting one of its own.

Whoever starts a program with a cluster around it says so here. It is known to this process and to its forks; not to
other programs that it starts, nor to tasks.
"""

from __future__ import annotations

center: str = ""
"""The address of the cluster's center; empty: there is none around us."""
