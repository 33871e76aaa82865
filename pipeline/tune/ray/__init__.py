"""Ray Tune's side of a search: trainable, searcher, scheduler, callback, and placement of trials."""
