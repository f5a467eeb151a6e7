"""Terminal output shared by all commands: progress, tables, next steps."""
