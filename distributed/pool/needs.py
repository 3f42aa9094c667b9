"""What executors have to call before they run tasks of this pool: uploaded code, then an initializer.

Tasks need what there is when they are submitted. Uploads travel as bundles of the files that are new, and a tree that
says which file stands where; a bundle of which nothing is left in the tree is needed no longer.
"""

from __future__ import annotations

import threading
from typing import Any

from distributed.pool.tasks import Code
from distributed.uploads import Bundle, Files, Tree, name_of, top_of, tops_of
from distributed.wire.functions import Initializer, needing, pack_need
from distributed.wire.serializers import Serializer, UseSerializer

BUNDLES_MAX = 16  # more become one


class Needs:
    """The needs of tasks that are submitted from now on; `current` is replaced as a whole, for any thread to read."""

    def __init__(self, initializer: Any = None, initargs: tuple[Any, ...] = (), how: Serializer | None = None) -> None:
        self._first = [] if how is None else [_coded(UseSerializer(how), "the serializer")]
        if initializer is not None:
            self._first.append(_coded(Initializer(initializer, initargs), "the initializer"))
        self._uploads: dict[str, Files] = {}  # by where they are from
        self._bundles: dict[Code, frozenset[bytes]] = {}  # and the names of what is in them
        self._lock = threading.Lock()  # two threads may upload
        self.current: tuple[bytes, tuple[Code, ...]] = b"", ()  # their name, empty if there are none, and their codes
        self._set(self._first)

    def upload(self, source: str, files: Files) -> None:
        """Tasks import from these files from now on, and from those uploaded before that have nothing to do with them.

        What was uploaded from the same place before is replaced as a whole, and so is what is imported by the same
        names: in a mixture of two versions, a module that is gone would still be found, or even hide the new one.
        """
        with self._lock:
            self._upload(source, files)

    def _upload(self, source: str, files: Files) -> None:
        tops = tops_of(files)
        others = {
            other: {path: data for path, data in theirs.items() if top_of(path) not in tops}
            for other, theirs in self._uploads.items()
        }
        self._uploads = {other: theirs for other, theirs in others.items() if theirs} | {source: files}
        placed = {path: data for some in self._uploads.values() for path, data in some.items()}
        contents = {name_of(data): data for data in placed.values()}
        known = frozenset().union(*self._bundles.values())
        if new := contents.keys() - known:
            self._add(Bundle([contents[name] for name in sorted(new)]), new)
        self._bundles = {code: names for code, names in self._bundles.items() if not names.isdisjoint(contents)}
        if len(self._bundles) > BUNDLES_MAX:
            self._bundles = {}
            self._add(Bundle(list(contents.values())), contents.keys())
        tree = Tree({path: name_of(data) for path, data in placed.items()})
        self._set([*self._bundles, _coded(tree, "the upload"), *self._first])

    def _add(self, bundle: Bundle, names: Any) -> None:
        self._bundles[_coded(bundle, "the upload")] = frozenset(names)

    def _set(self, codes: list[Code]) -> None:
        self.current = needing(b"", [code.identity for code in codes]) if codes else b"", tuple(codes)


def _coded(need: Any, what: str) -> Code:
    return Code(*pack_need(need, what))
