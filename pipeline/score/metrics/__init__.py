"""Metrics of class probabilities: what they are worth on a set of images, and what each image has to do with it.

`metric` has the ones that are known by name, `user_metric` a function of the user's own, `jackknife` the pseudo-values
from which intervals are made, `chosen_metric` the one that the parameters ask for, and `wording` its words and units.
"""
