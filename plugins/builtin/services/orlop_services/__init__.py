# SPDX-License-Identifier: Apache-2.0
"""Built-in plugins: the servers and the services they mount."""
