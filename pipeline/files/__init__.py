"""Reading and writing of files: atomic replacement, locks, hashes, and tables and paths as users write them."""
