# SPDX-License-Identifier: Apache-2.0
"""When garbage is collected."""
