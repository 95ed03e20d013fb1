# SPDX-License-Identifier: Apache-2.0
"""What log drivers are made of: lines out of pipes, the options of Docker's drivers, and a relay to slow receivers."""
