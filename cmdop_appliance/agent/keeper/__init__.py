"""The small process that owns a machine's commands, so that they outlive the agent.

Standard library only, and nothing of ours outside this package. It also does without `pathlib`,
`typing`, `dataclasses` and `subprocess`: each costs 1 to 2 MB of a process that has 11.
"""
