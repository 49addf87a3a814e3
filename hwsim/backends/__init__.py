"""Simulators of chip segments."""
