"""The classifier in whose features images are measured that Inception cannot judge."""
