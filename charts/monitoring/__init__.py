"""Dashboards for Grafana and alerts for Prometheus, as data. charts/render.py writes them into the chart.

No library makes them: the few kinds of panels that the boards have take less code than a library for all of Grafana.
"""
