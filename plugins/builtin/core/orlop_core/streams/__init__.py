# SPDX-License-Identifier: Apache-2.0
"""The streams that clients have open."""
