"""Evidence: whether a map of importance says what it seems to say."""
