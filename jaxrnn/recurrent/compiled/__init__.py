"""The recurrence compiled for this machine's processor, each cell generated from its step."""
