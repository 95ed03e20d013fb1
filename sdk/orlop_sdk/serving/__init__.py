# SPDX-License-Identifier: Apache-2.0
"""Serve implementations of kernel interfaces over containerd's own APIs.

The daemon uses the service classes; an author uses `orlop_sdk.serving.proxy` to run a snapshotter, content store,
differ or sandbox controller as a process of its own, which containerd and Orlop take as a proxy plugin, and
`orlop_sdk.serving.stream` and `orlop_sdk.serving.log` for the programs that containerd calls.

==================================  ===================================================================================
`orlop_sdk.serving.proxy`           serve one or several of them on a unix socket, and a ``main`` for such programs
`orlop_sdk.serving.stream`          stream processors as one function, which is a program for containerd too
`orlop_sdk.serving.converter`       ... and a plugin for Orlop
`orlop_sdk.serving.log`             log drivers as programs for ``binary://``
`orlop_sdk.serving.snapshots`       ``containerd.services.snapshots.v1``
`orlop_sdk.serving.content`         ``containerd.services.content.v1``
`orlop_sdk.serving.diff`            ``containerd.services.diff.v1``
`orlop_sdk.serving.sandbox`         ``containerd.services.sandbox.v1.Controller``
`orlop_sdk.serving.socketfile`      the file of a unix socket, made without races
==================================  ===================================================================================
"""
