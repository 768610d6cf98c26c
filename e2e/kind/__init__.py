"""Tests on a cluster that runs pods: kind, or the cluster of the current kubeconfig with E2E_USE_CLUSTER=1."""
