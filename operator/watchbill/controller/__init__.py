"""The operator: watches Crews and Heartbeats, and brings Redis and the workers to where they should be.

kopf is its watch transport and no more (handlers put keys on our own work queue); decisions are plan/crew's.
"""
