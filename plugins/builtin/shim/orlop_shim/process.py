# SPDX-License-Identifier: Apache-2.0
"""A process of a container as its clients see it."""

from __future__ import annotations

import errno
import os

from orlop_sdk.hints import Final
from orlop_shim.bag import Bag
from orlop_shim.children import End, Target
from orlop_shim.loop import Lock, Promise
from orlop_shim.messages import CREATED, STOPPED, timestamp_ns
from orlop_shim.stdio import Request, Streams
from orlop_shim.wire import Values


class Process:
    """The first process of a container (empty *exec_id*), or another one in it."""

    def __init__(self, container: str, exec_id: str, request: Request, streams: Streams) -> None:
        self.container: Final = container
        self.exec_id: Final = exec_id
        self.request: Final = request
        self.streams: Final = streams
        self.lock: Final = Lock()
        self.pid = 0
        self._target: Target | None = None
        self.status = CREATED
        self.end: End | None = None
        #: Kept, with the `End`, when the exit has been published.
        self.exited: Final = Promise()

    @property
    def id(self) -> str:
        """What events call it: the exec id, or the container's id."""
        return self.exec_id or self.container

    @property
    def lives(self) -> bool:
        """Whether it is there: started by the runtime, and not ended."""
        return self.pid > 0 and self.end is None

    def begin(self, pid: int) -> None:
        """It is there, and has this pid."""
        self.pid = pid
        self._target = Target.of(pid)

    def send(self, number: int) -> None:
        """Send it a signal. Raises ProcessLookupError when it is not there, OSError for a signal that there is not."""
        if self._target is None:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        self._target.send(number)

    def finish(self, end: End) -> None:
        """It has ended, and everybody may know."""
        self.end = end
        self.status = STOPPED
        if self._target is not None:
            self._target.close()
        self.exited.set(end)

    def save(self, bag: Bag) -> Values:
        """What `restore` takes."""
        end = tuple(self.end) if self.end is not None else None
        target = self._target.save(bag) if self._target is not None else None
        streams = self.streams.save(bag)
        return {"pid": self.pid, "status": self.status, "end": end, "target": target, "streams": streams}

    def restore(self, saved: Values, bag: Bag) -> None:
        """Be what another worker has saved."""
        self.streams.restore(saved["streams"], bag)
        self.status = saved["status"]
        self.pid = saved["pid"]
        if saved["end"] is not None:
            self.finish(End(*saved["end"]))
        elif saved["target"] is not None:
            self._target = Target.restored(self.pid, saved["target"], bag)

    def outcome(self) -> Values:
        """Exit status and time, zero and None before the end."""
        if self.end is None:
            return {"exit_status": 0, "exited_at": None}
        return {"exit_status": self.end.status, "exited_at": timestamp_ns(self.end.at)}
