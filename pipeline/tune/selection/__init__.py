"""Choice of the best configuration: confirms candidates with further seeds and writes results/search."""
