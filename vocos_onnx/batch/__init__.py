"""Corpora: many items with the same settings, in several processes, which go on where they stopped."""
