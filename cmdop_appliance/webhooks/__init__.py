"""Webhooks: who is told of events, by which request, and when it is tried again."""
