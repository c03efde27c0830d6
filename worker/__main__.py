"""Takes `python -m worker ...`. Gives the command line. Knows nothing of what the commands do."""

import sys

from worker.cli import commands

if __name__ == "__main__":
    sys.exit(commands.main(sys.argv[1:]))
