"""Help while typing a command: the page of `--help`, and the words of TAB completion."""
