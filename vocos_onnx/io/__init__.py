"""Audio, token and image files: reading them, and writing them safely."""
