"""What each runtime can execute, as declared profiles; data only."""
