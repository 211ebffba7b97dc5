"""Run the command line as ``python -m ulmpaper``."""

from ulmpaper.cli import main

if __name__ == "__main__":
    main()
