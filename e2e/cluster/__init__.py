"""Kubernetes clusters for tests, built from Go modules and Debian packages: nothing is downloaded ready-made.

`python -m e2e.cluster --help` is the one entry point; tests use the fixtures in the conftest files. Needs nothing but
Python's standard library. Changes nothing on the machine except by name: its own cache folder, images, Docker network,
one firewall rule and, only as root on Debian or Ubuntu, packages that are missing.
"""
