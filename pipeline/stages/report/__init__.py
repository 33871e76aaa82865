"""The stage that writes the page a person reads, results/report."""
