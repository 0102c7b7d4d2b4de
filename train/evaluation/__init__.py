"""Scores of predictors on held-out clips."""
