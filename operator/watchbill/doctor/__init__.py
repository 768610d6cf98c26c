"""Examines an installation: the store, the cluster, the crews. It only reads; each finding names its fix as a command.

The modules, by their purpose: `findings` has the values and is pure, `store` asks the store's servers, `crews` looks
for work that nobody does, `cluster` asks the API server, `rights` lists what the operator may do.
"""
