"""THE COMMAND: one file a verb; ``cdinfer.__main__`` picks one."""
