"""What a training shows while it runs, in whatever loggers it has."""
