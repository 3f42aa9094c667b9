"""What members of groups say to one another, at the worker of those who are told: passed on, and kept until it is read.

A message is given to the executor of its receiver at once. Until that says that it was read, it counts; when too much
is unread, senders are sent away, and come again. A large one is a file of the store's without a key, with as many users
as it has receivers here. All that is unread goes with the task it is for. Passes on what it is given; opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from distributed.config import Settings
from distributed.wire.messages import Letter, LettersRead, TellGroup, ToTask
from distributed.worker.events import AnswerPost, FromClient, FromExecutor, Give, Posted
from distributed.worker.rooms import Rooms
from distributed.worker.store import Entry, Store
from distributed.worker.tasks import Part

Find = Callable[[list[str]], list[tuple[Part, list[int]]]]


class Mailbox:
    """What one member was sent and has not read."""

    __slots__ = ("attempt", "executor", "last_of", "letters", "serial", "unread_bytes")

    def __init__(self, executor: int, serial: int, attempt: int) -> None:
        self.executor, self.serial, self.attempt = executor, serial, attempt
        self.last_of: dict[int, int] = {}  # rank -> number of the last message from there
        self.letters: dict[int, tuple[int, Entry | None]] = {}  # number at this box -> size, and file if it is one
        self.unread_bytes = 0


class Letters:
    """The mailboxes of the members that run here. `find` gives parts and positions of tasks by their keys."""

    def __init__(self, find: Find, store: Store, rooms: Rooms, settings: Settings) -> None:
        self._find, self._store, self._rooms, self._settings = find, store, rooms, settings
        self._out: list[Any] = store.out
        self._boxes: dict[str, Mailbox] = {}
        self._numbers = 0

    def posted(self, event: Posted) -> None:
        """A message has come: for all who it is for, or for none of them."""
        boxes = [self._box(key, attempt) for key, attempt in zip(event.keys, event.attempts, strict=True)]
        new: list[tuple[Mailbox, int]] = []
        for box, number in zip(boxes, event.numbers, strict=True):
            if box is None:
                self._out.append(AnswerPost(event.writer, "over"))
                return
            if number > box.last_of.get(event.sender, 0):
                new.append((box, number))
        if any(box.unread_bytes >= self._settings.unread_bytes_max for box, _ in new):
            self._out.append(AnswerPost(event.writer, "full"))
            return
        entry = None
        if event.path and not new:
            self._rooms.abandon(event.path)
        elif event.path:
            self._rooms.filled(event.path)
            entry = self._store.add_nameless(event.nbytes, event.path, len(new))
        for box, number in new:
            box.last_of[event.sender] = number
            self._put(box, event, entry)
        self._out.append(AnswerPost(event.writer, "taken"))

    def _put(self, box: Mailbox, event: Posted, entry: Entry | None) -> None:
        self._numbers += 1
        box.letters[self._numbers] = event.nbytes, entry
        box.unread_bytes += event.nbytes
        letter = Letter(box.serial, self._numbers, event.sender, event.tag, event.value, event.path)
        self._out.append(Give(box.executor, letter))

    def _box(self, key: str, attempt: int) -> Mailbox | None:
        """The box of a member that has an executor here."""
        box = self._boxes.get(key)
        if box is None:
            for part, positions in self._find([key]):
                position = positions[0]
                if part.together and part.serial:
                    box = Mailbox(part.executor, part.serial + position, part.attempts[position])
                    self._boxes[key] = box
        return box if box is not None and box.attempt == attempt else None

    def read(self, event: FromExecutor) -> None:
        """A member has read some."""
        message: LettersRead = event.message  # type: ignore[assignment]
        for box in self._boxes.values():
            if (box.executor, box.serial) == (event.executor, message.serial):
                for number in message.numbers:
                    self._forget(box, number)
                return

    def _forget(self, box: Mailbox, number: int) -> None:
        nbytes, entry = box.letters.pop(number, (0, None))
        box.unread_bytes -= nbytes
        if entry is not None:
            self._store.put_down(entry)
            self._store.let_go(entry)

    def close(self, keys: list[str]) -> None:
        """These tasks are done, or not wanted any more: what they did not read goes."""
        for key in keys:
            box = self._boxes.pop(key, None)
            if box is not None:
                for number in list(box.letters):
                    self._forget(box, number)

    def tell(self, event: FromClient) -> None:
        """Pass on what the owner of a group says to members that run here."""
        message: TellGroup = event.message  # type: ignore[assignment]
        attempts = dict(zip(message.keys, message.attempts, strict=True))
        for part, positions in self._find(message.keys):
            if part.order.client != event.client or not part.serial:
                continue
            if message.begins:
                part.order.begun = True
            for position in positions:
                if part.attempts[position] == attempts[part.keys[position]]:
                    self._out.append(Give(part.executor, ToTask(part.serial + position, message.said)))

    def entries(self) -> Iterator[Entry]:
        """The files of what is unread, as often as they are for somebody."""
        for box in self._boxes.values():
            for _, entry in box.letters.values():
                if entry is not None:
                    yield entry

    def check(self) -> None:
        """Accounts equal content; nobody's mail is kept."""
        for key, box in self._boxes.items():
            assert box.unread_bytes == sum(nbytes for nbytes, _ in box.letters.values()), "unread bytes"
            assert self._find([key]), f"mail for {key}, which is not here"
