"""The REST API: the only package, with `web` and `server`, that knows quart and hypercorn."""
