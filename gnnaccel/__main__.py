"""`python -m gnnaccel` is the `gnnaccel` command."""

from gnnaccel.cli import main

if __name__ == "__main__":
    main()
