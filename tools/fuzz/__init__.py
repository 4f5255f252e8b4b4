"""Damaged and hostile inputs for everything that reads a file; ``__main__`` says how to run it."""
