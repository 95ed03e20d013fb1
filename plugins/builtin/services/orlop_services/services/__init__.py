# SPDX-License-Identifier: Apache-2.0
"""Remote services: thin faces of kernel interfaces, one module a protobuf package.

A service converts messages, calls its back end and converts the answer. Rules about records belong to the back end,
so that they hold for callers in this process too; only what the wire alone brings (field masks, chunks, streams) is
here. The services that proxy plugins offer as well (content, diff, snapshots) are in `orlop_sdk.serving`.
"""
