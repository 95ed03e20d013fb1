# SPDX-License-Identifier: Apache-2.0
"""Values of `orlop.values` to messages of `orlop_sdk.api` and back: one module a noun.

``<noun>_to_wire`` and ``<noun>_from_wire`` are inverses but for three things: the wire has nanoseconds and values have
microseconds (the rest is cut off), an unset timestamp is `orlop.values.EPOCH` as a value and stays unset, and an
``Any`` without type and bytes is None.

=====================================  ================================================================================
`orlop_sdk.convert.common`             timestamps, ``Any``, descriptors, mounts, platforms
`orlop_sdk.convert.containers`         container records
`orlop_sdk.convert.content`            blobs and ingests
`orlop_sdk.convert.events`             event envelopes
`orlop_sdk.convert.images`             image records
`orlop_sdk.convert.leases`             leases and what they keep
`orlop_sdk.convert.namespaces`         namespaces
`orlop_sdk.convert.sandboxes`          sandbox records
`orlop_sdk.convert.snapshots`          snapshots and their disk use
`orlop_sdk.convert.tasks`              processes and metrics
=====================================  ================================================================================

A module imports only the messages it needs, so that a small program loads no more than these.
"""
