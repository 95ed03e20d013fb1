# SPDX-License-Identifier: Apache-2.0
"""Built-in plugins: proxies for plugins that live behind a socket."""
