# SPDX-License-Identifier: Apache-2.0
"""The roles a plugin can play: one module a role, each its own specification.

Each module has the protocol, the plugin type (upper case) and the decorator that declares a plugin of that type.
"""
