"""Runs one attempt of a task: the agent on the event loop, in a thread or in a process, until its result is made.

Imports nothing else of the worker: it knows no leases, slots or claims.
"""
