"""Measures of a trained model: likelihoods over a data set."""
