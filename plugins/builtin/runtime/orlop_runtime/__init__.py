# SPDX-License-Identifier: Apache-2.0
"""Built-in plugins: the shim manager, the runc shim, log drivers and monitors."""
