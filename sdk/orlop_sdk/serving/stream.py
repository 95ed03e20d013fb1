# SPDX-License-Identifier: Apache-2.0
"""Stream processors as one function, which is a program for containerd as well.

::

    def convert(stream: Stream) -> None:
        with lzma.open(stream.source) as plain:
            shutil.copyfileobj(plain, stream.sink)

    main = main_for(convert)

As a plugin of Orlop it is an `orlop_sdk.serving.converter.Converter` of ``"module:convert"``. Installed as a console
script ``demo-stream = "module:main"`` it is what containerd's config calls::

    [stream_processors.demo]
      accepts = ["application/vnd.oci.image.layer.v1.tar+xz"]
      returns = "application/vnd.oci.image.layer.v1.tar"
      path = "/opt/demo/bin/demo-stream"

Either way it runs in a process of its own, which ends with the stream. This module is what that process needs, so it
imports little.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Final

from orlop.errors import OrlopError
from orlop.values import AnyMessage

MEDIA_TYPE: Final = "STREAM_PROCESSOR_MEDIATYPE"
"""Environment variable with the media type of the source."""
PAYLOAD: Final = "ORLOP_STREAM_PAYLOAD"
"""Environment variable with the number of the payload's descriptor, -1 for none; containerd's when it is not set."""
STATUS: Final = 64
"""Exit status of an error of `orlop.errors`: this and its code, so that its class can be told again."""
_PAYLOAD_DESCRIPTOR: Final = 3


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream to convert."""

    source: BinaryIO
    """Comes in. May be a pipe, so it cannot be sought in."""
    sink: BinaryIO
    """Goes out."""
    media_type: str
    """What comes in."""
    payload: AnyMessage | None = None
    """What the client sent for this processor, such as a key."""


Convert = Callable[[Stream], None]
"""Reads the source to its end and writes the sink. What it raises is told to whoever unpacks the layer."""


def main_for(convert: Convert) -> Callable[[], int]:
    """The ``main`` of a program that converts its standard input; returns the exit status."""
    return partial(run, convert)


def run(convert: Convert) -> int:
    """Convert standard input to standard output."""
    payload = _payload()  # before anything else gets its descriptor
    # What the function prints must not get into the layer.
    sink = os.dup(1)
    os.dup2(2, 1)
    # One buffer for both, so that an error comes after what was said before it.
    sys.stdout = sys.stderr
    try:
        with open(0, "rb", closefd=False) as source, open(sink, "wb", buffering=1 << 16) as out:
            convert(Stream(source, out, os.environ.get(MEDIA_TYPE, ""), payload))
    except OrlopError as error:
        print(error, file=sys.stderr)
        return STATUS + error.code
    # A function is anybody's code, and its one line is all that whoever unpacks the layer gets to see.
    except Exception as error:  # noqa: BLE001  # see above
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def find(target: str) -> Convert:
    """The function that ``module:attribute`` names. Raises ImportError and AttributeError."""
    module, _, attribute = target.partition(":")
    found: Convert = getattr(importlib.import_module(module), attribute)
    return found


def _payload() -> AnyMessage | None:
    number = int(os.environ.get(PAYLOAD, _PAYLOAD_DESCRIPTOR))
    if number < 0:
        return None
    try:
        with open(number, "rb") as file:
            data = file.read()
    except OSError:
        return None  # containerd opens nothing where there is nothing
    from google.protobuf.any_pb2 import Any

    message = Any.FromString(data)
    return AnyMessage(message.type_url, message.value)


if __name__ == "__main__":
    sys.exit(run(find(sys.argv[1])))
