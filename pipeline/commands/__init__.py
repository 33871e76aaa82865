"""The commands of sar-search, a file each; imported by cli.py alone."""
