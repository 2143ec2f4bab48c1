"""Analyses and rewrites, one file each; installed and imported as `irverify.passes`."""

if __name__ != "irverify.passes":
    raise ImportError(f"import it as 'irverify.passes', not as {__name__!r}: under two names it loads twice")
