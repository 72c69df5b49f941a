"""``python -m proxy``, and the ``redis-proxy`` command."""

import sys

from proxy import cli


def main() -> int:
    """Runs the command line of this process; returns its exit status."""
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
