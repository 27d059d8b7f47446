"""Rank selection: energies and costs in, ranks out."""

from cnncompress.ranks.methods import choose_menus, choose_methods
from cnncompress.ranks.selection import RULES, Candidate, Rule, choose_ranks

__all__ = ["RULES", "Candidate", "Rule", "choose_menus", "choose_methods", "choose_ranks"]
