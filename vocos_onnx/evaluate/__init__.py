"""Evaluates models: metrics, the listening page, and the figures of the bundled models."""
