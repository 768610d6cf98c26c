"""Tests of the operator on a bare control plane: a real API server and its controllers, and no pods."""
