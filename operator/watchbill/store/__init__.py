"""What is kept in Redis, and how it changes: every multi-key step is one script with a typed stub here.

May not know workers, agents, settings or metrics.
"""
