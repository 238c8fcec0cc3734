"""Campaigns: groups of suspicious pairs that belong together, what they share, and how sure that is.

Noise is scattered, attacks repeat themselves. ``search.find_campaigns`` is the step of the scan; docs/campaigns.md has
the formulas and what was measured.
"""
