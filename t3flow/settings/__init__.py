"""What the owner decided: the settings file, the user map, the schedule."""
