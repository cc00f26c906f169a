"""``python -m ffsim`` is the ``ffsim`` command."""

from ffsim.cli import main

if __name__ == "__main__":
    main()
