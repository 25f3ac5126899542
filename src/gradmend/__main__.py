"""``python -m gradmend``."""

import sys

from gradmend.cli import main

sys.exit(main())
