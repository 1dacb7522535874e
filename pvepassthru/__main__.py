# SPDX-License-Identifier: Apache-2.0
"""Run as `python3 -m pvepassthru`."""

import sys

from pvepassthru.cli.main import main

sys.exit(main())
