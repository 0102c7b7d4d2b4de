"""Training clips."""
