"""From a file to the square pixels that a network gets."""
