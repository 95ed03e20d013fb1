# SPDX-License-Identifier: Apache-2.0
"""Built-in plugins: differs, stream processors, transfer and image verifiers."""
