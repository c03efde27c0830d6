"""Takes a folder. Gives every figure that docs/performance.md shows, as tables and as a JSON file for each program.

Knows nothing of what the programs measure; each can be run alone, with --help for its sizes. `make bench` runs it.
"""

import argparse
import subprocess
import sys
from pathlib import Path

#: In the order of the page.
PROGRAMS = ("throughput", "latency", "http", "overload", "recording", "million", "crowded")


def main() -> int:
    """Run the programs, one after the other; give 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure everything that docs/performance.md shows.")
    parser.add_argument("--folder", type=Path, default=Path("bench-figures"), help="where the figures are written")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{program}.json" for program in PROGRAMS]
    failed = [
        program
        for program, file in zip(PROGRAMS, files, strict=True)
        if subprocess.run([sys.executable, "-m", f"bench.{program}", "--json", str(file)], check=False).returncode
    ]
    if failed:
        print(f"\nThese failed: {', '.join(failed)}.")
        return 1
    print(f"\nTo write them into docs/performance.md: python -m bench.report {' '.join(map(str, files))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
