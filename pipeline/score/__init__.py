"""Numbers from predictions and attention maps, with numpy and scipy alone.

`classify` scores class probabilities, `locate` scores attention against masks, `comparison` says what the difference of
two arms is worth. Nothing here trains, draws or stores.
"""
