"""AI coding agents: which this machine knows, where they start, and whether they wait for somebody.

What refuses a session is a `Refusal`; until the keeper has started it, all that was made for it can
be undone, also after a crash.
"""
