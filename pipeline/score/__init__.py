"""Statistics and metrics of predictions and attention maps, in numpy and scipy.

`classify` scores class probabilities. `locate` scores attention against masks. `comparison` gives the
difference of two arms with its interval, `endpoints` tests which differences are shown, and `verdict` puts
them into sentences. Only `similarity_maps` and `latency` run networks. No module here trains one or writes a
file.
"""
