"""Rank selection: energies and costs in, ranks out."""

from cnncompress.ranks.selection import RULES, Candidate, Rule, choose_methods, choose_ranks

__all__ = ["RULES", "Candidate", "Rule", "choose_methods", "choose_ranks"]
