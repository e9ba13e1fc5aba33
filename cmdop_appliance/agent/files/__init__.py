"""The files of this machine, as far as agent.toml opens them to the hub.

Plain blocking code for worker threads; what it refuses, or the system, is a `FileFailure`. Every
path is walked by directory descriptors (roots.py), so that no link leads out of the roots, also
one that is swapped meanwhile.
"""
