"""Count words: a map over texts, a tree of merges, and only the ten most frequent words come back.

python word_count.py [FILE ...]          without files: this program's own source, a hundred times
"""

from __future__ import annotations

import collections
import re
import sys
from pathlib import Path

from distributed import Pool


def count(text: str) -> collections.Counter[str]:
    return collections.Counter(re.findall(r"[a-z]+", text.lower()))


def merge(*counts: collections.Counter[str]) -> collections.Counter[str]:
    return sum(counts, collections.Counter())


def main(paths: list[str]) -> None:
    texts = [Path(path).read_text() for path in paths] or [Path(__file__).read_text()] * 100
    with Pool() as pool:
        counts = pool.map(count, texts)
        while len(counts) > 1:  # handles of handles: nothing waits here, and no count comes to this process
            counts = [pool.submit(merge, *counts[at : at + 8]) for at in range(0, len(counts), 8)]
        for word, number in pool.submit(collections.Counter.most_common, counts[0], 10).get():
            print(f"{number:8} {word}")


if __name__ == "__main__":
    main(sys.argv[1:])
