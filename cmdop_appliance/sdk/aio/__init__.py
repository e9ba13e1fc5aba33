"""The asynchronous client, from which `scripts/fix` makes the synchronous one.

`connection`, `waiting` and `websocket` are written for each of the two; all the rest once, here.
"""
