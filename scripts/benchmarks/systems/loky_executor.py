"""loky: the reusable executor, as its documentation recommends."""

import loky

from benchmarks.systems import base


class System(base.Futures):
    distribution = "loky"

    def open(self):
        return loky.get_reusable_executor(max_workers=self.workers)
