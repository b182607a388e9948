"""Arrays in, arrays out: transforms, mels, the quantiser, resampling. No session, and no files."""
