"""Attacks with ground truth, training with and without defences, and the measurement of what they buy."""
