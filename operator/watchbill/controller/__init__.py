"""The operator: watches Crews and Heartbeats, and brings Redis and the workers' Deployments to where they should be.

kopf is only its watch transport: handlers put keys on our own work queue. What is to be done is decided in plan/crew.
"""
