"""Journal: the append-only record of every event of a search, from which it resumes."""
