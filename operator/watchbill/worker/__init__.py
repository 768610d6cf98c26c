"""Workers: claim, run agents, keep the lease, hand results over. A worker serves one crew.

Imports nothing of Kubernetes, and knows nothing of how it was started.
"""
