"""Tests of one release, which is installed for all of them."""
