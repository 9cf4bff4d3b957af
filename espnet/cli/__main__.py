"""`python -m espnet.cli` is `espcli`."""

import sys

from espnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
