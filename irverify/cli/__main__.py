"""`python -m irverify.cli`."""

from __future__ import annotations

from irverify.cli import main

if __name__ == "__main__":
    main()
