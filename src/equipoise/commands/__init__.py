"""One file a command, each read from top to bottom."""
