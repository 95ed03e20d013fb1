# SPDX-License-Identifier: Apache-2.0
"""The program that touches layers: a process of its own that reads and writes trees inside a chroot.

It is started afresh for each layer (`orlop_images.process`), imports the standard library, the SDK's system calls and
the codecs, and nothing of the daemon. Whatever a layer holds, the worst it can do is damage its own tree.
"""
