"""`python -m site_builder [--output site]`: writes the generated pages of docs/reference and builds the site."""

import argparse
import sys
from pathlib import Path

from site_builder.keys import write_page
from site_builder.site import BrokenLink, BuildFailed, build


def main() -> None:
    """Build the pages and the site; exit with code 1 and the generator's message if this fails."""
    parser = argparse.ArgumentParser(prog="python -m site_builder", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("site"), help="folder of the site (replaced)")
    target = parser.parse_args().output
    write_page()
    try:
        build(target)
    except (BuildFailed, BrokenLink) as error:
        sys.exit(f"error: {error}")
    print(f"{target / 'index.html'}")


if __name__ == "__main__":
    main()
