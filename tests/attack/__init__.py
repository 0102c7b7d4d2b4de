"""Attacks on one's own copy of the app and of the training code: bounded, on this machine only."""
