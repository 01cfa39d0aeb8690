"""`python -m gristmill` is the same as the command `gristmill`."""

import sys

from gristmill.cli import main

sys.exit(main())
