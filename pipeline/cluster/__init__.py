"""Ray's runtime: started or connected to here, and many runs side by side on it."""
