"""Attacks with ground truth; the training stage will live here."""
