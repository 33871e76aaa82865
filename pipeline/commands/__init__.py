"""The commands of sar-search, one per file; only cli.py imports them."""
