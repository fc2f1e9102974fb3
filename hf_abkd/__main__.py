"""`python -m hf_abkd` is `hf-abkd`."""

import sys

from hf_abkd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
