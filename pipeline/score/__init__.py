"""Numbers from predictions and attention maps, with numpy and scipy alone.

`classify` scores class probabilities, `locate` scores attention against masks, `comparison` says what the difference of
two arms is worth, `endpoints` which of such differences are shown, and `verdict` says it. Nothing here trains, draws or
stores.
"""
