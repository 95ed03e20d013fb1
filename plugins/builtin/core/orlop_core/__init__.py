# SPDX-License-Identifier: Apache-2.0
"""Built-in plugins: metadata, content, events, leases and garbage collection."""
