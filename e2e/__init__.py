"""Tests on real clusters: `control_plane/` on bare Kubernetes processes, `kind/` with pods."""
