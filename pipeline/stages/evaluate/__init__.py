"""The stage that scores the retrained networks on the test set, into results/evaluate."""
