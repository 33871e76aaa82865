"""How work on arrays is compiled and spread over threads on a CPU, for the rooms above; knows nothing of what it is."""
