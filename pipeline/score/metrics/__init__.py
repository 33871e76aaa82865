"""Metrics of class probabilities: their value on a set of images, and the contribution of each image.

`metric` has the metrics that are known by name, and `user_metric` loads a function of the user's own.
`jackknife` has the pseudo-values from which intervals are computed. `chosen_metric` returns the metric of the
parameters, and `wording` formats its name and units.
"""
