"""Simulated worlds in MuJoCo."""
