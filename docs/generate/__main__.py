"""Takes the code. Gives the pages of `docs/reference/`, written anew; knows nothing of what is on them."""

import sys

from docs.generate import pages


def main() -> int:
    """Write every page that is stale, and remove those that nothing writes any more."""
    for name in pages.refresh():
        print(f"docs/reference/{name} is written anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
