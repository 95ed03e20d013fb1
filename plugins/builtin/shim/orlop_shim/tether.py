# SPDX-License-Identifier: Apache-2.0
"""A worker's side of its anchor (`orlop_shim.anchor`): it hears of children's ends, and leaves all it has to the next.

What is left is a dictionary of plain values, as `marshal` takes them: both workers are forks of one process, so nobody
else ever reads it. Descriptors are in a `Bag`, and the dictionary has their places there.
"""

from __future__ import annotations

import array
import marshal
import os

from orlop_sdk.hints import Final
from orlop_shim import files
from orlop_shim import plain_socket as socket
from orlop_shim.anchor import BEGIN, END, EVENTS, LOOK, MORE, MOST_FDS, Ties
from orlop_shim.bag import Bag
from orlop_shim.children import Children
from orlop_shim.loop import READ, Loop
from orlop_shim.wire import Values

_CHUNK: Final = 256 * END.size
_STATE: Final = 0


class Tether:
    """A worker's connection with its anchor."""

    def __init__(self, ties: Ties) -> None:
        self._ties = ties

    def hear(self, loop: Loop, children: Children) -> None:
        """Learn of the ends of children that the anchor has reaped, from now on."""
        loop.watch(self._ties.ends, READ, lambda _: self._read(children))

    def pack(self, loop: Loop) -> Bag:
        """A bag to leave. What the loop watches wakes the next worker. Raises OSError."""
        # In the order that the anchor knows.
        return Bag([os.memfd_create("shim"), loop.epoll.fileno()])

    def leave(self, state: Values, bag: Bag) -> None:
        """Leave everything to the next worker. The process has to end then, and not touch anything. Raises OSError."""
        memory = bag.take(_STATE)
        try:
            files.write_all(memory, marshal.dumps(state))
            looks = b"".join(LOOK.pack(*look) for look in bag.looks)
            packets = range(0, len(bag.fds), MOST_FDS)
            for number, at in enumerate(packets):
                follow = len(packets) - 1 - number
                data = (MORE if at else BEGIN) + bytes((follow,)) + (b"" if follow else looks)
                fds = array.array("i", bag.fds[at : at + MOST_FDS])
                self._ties.link.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        finally:
            os.close(memory)

    def take_over(self) -> tuple[Values, Bag] | None:
        """What the last worker left; None for the first."""
        fds = self._ties.left
        if not fds:
            return None
        os.lseek(fds[_STATE], 0, os.SEEK_SET)
        state: Values = marshal.loads(files.read_from(fds[_STATE]))  # noqa: S302 - from a fork of this very process
        os.close(fds[_STATE])
        os.close(fds[EVENTS])
        return state, Bag(fds)

    def _read(self, children: Children) -> None:
        for pid, status, at in END.iter_unpack(os.read(self._ties.ends, _CHUNK)):
            children.note(pid, status, at)
