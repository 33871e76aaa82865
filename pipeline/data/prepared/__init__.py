"""Opens and reads the prepared set: memory-mapped arrays, or rows stored as encoded files."""
