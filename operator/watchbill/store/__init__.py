"""The data in Redis, and its changes: every multi-key step is one script with a typed stub here.

May not know workers, agents, settings or metrics.
"""
