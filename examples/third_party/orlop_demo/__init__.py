# SPDX-License-Identifier: Apache-2.0
"""Plugins from elsewhere, as their author would lay them out: one module a plugin, imported when it is needed."""
