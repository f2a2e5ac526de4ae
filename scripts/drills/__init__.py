"""Drills: faults put into real runs, to see that nothing is lost and nothing gets in."""
