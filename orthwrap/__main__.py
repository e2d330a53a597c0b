"""`python -m orthwrap`."""

from __future__ import annotations

from orthwrap_cli.main import main

if __name__ == "__main__":
    main()
