"""``python -m talkhead`` is ``talkhead``."""

import sys

from talkhead.cli import main

if __name__ == "__main__":
    sys.exit(main())
