"""The command line: everything a person can do, over the public HTTP API."""
