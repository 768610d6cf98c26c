"""Delivery of results, beside the work of a worker: in slots of its own, from a queue of its own."""
