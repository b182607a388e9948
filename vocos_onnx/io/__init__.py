"""Files: audio, tokens, pictures, and how they are written."""
