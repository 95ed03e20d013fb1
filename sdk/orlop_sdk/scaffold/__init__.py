# SPDX-License-Identifier: Apache-2.0
"""From an empty folder to a working plugin: ``orlop-sdk new KIND NAME``.

What comes out is a whole distribution with a plugin that works, and tests that run the SDK's suite for its kind. The
templates are the files below ``templates/``: those of the kind over those in ``common``, names ending in ``.in``.
"""

from orlop_sdk.scaffold.kinds import KINDS, Kind
from orlop_sdk.scaffold.make import create

__all__ = ["KINDS", "Kind", "create"]
