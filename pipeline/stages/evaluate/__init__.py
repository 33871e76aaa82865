"""The stage that scores the retrained models on the test set, once, into results/evaluate."""
