"""What turns a compiled graph into something that runs elsewhere; installed and imported as `irverify.backends`."""

if __name__ != "irverify.backends":
    raise ImportError(f"import it as 'irverify.backends', not as {__name__!r}: under two names it loads twice")
