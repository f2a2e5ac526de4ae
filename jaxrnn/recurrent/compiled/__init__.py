"""The recurrence of the usual cells, compiled for this machine's processor."""
