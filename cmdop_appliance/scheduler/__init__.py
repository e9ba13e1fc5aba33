"""Schedules: which instant a rule means, and what becomes of it."""
