"""Takes `python -m worker ...`. Gives the command line. Knows nothing of what the commands do."""

import os
import sys

# Before anything imports torch: its threads spin while they wait for each other, and where workers share the cores that
# costs many times the work (measured on a head of 900 x 1,280 features: 4.8 s instead of 1.1).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from worker.cli import commands

if __name__ == "__main__":
    sys.exit(commands.main(sys.argv[1:]))
