"""From challenger to champion, and back."""
