# SPDX-License-Identifier: Apache-2.0
"""The Orlop SDK: wire API, client, serving and test kits for plugin authors."""
