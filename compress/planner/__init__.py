"""The planner: candidates, what they lose and what they cost in, a plan within the budget out."""
