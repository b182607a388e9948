"""How good a model is: metrics, the page to listen to, the figures of the bundled models."""
