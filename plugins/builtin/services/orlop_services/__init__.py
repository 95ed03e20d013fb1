# SPDX-License-Identifier: Apache-2.0
"""The daemon, its servers, and the remote services they mount."""
