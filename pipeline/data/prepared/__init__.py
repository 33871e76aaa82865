"""Opens and reads the prepared set: memory-mapped arrays, or rows kept as encoded files."""
