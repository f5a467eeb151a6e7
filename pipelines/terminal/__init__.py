"""Terminal output shared by all commands: progress, tables, next commands."""

#: Exit status of an interrupted command, as in shells.
EXIT_INTERRUPTED = 130
