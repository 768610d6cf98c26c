"""Watchbill's boards without Grafana: in a terminal (`make monitor`), and as pictures (`make pictures`)."""
