"""The champion, the served bundle of a series of runs: only a better one replaces it."""
