"""The command line: one file per group of commands, options once, all printing and exit codes in `output`."""
