"""``eigengrad``, and ``python -m eigengrad_lab``."""

from eigengrad_lab.cli.parser import main

if __name__ == "__main__":
    main()
