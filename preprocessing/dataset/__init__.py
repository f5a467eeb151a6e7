"""The data set as a whole: sources, plan, duplicates, identities, finalization, verification."""
