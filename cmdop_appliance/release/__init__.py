"""Releases: which is newer, whose are taken, and the one file that carries one."""
