"""``python -m depgraph``: the command."""

from depgraph.cli import main

if __name__ == "__main__":
    main()
