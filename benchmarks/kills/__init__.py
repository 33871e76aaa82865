"""What `kill_search.py` is made of: a clone to be harmed in, who is at work in it, and what must hold afterwards."""
