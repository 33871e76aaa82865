"""What a terminal or a log shows: tables, sizes, names of configurations, progress."""
