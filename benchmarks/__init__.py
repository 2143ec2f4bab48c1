"""What is fast and what is decided, measured by scripts that anybody can run."""
