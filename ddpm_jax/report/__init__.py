"""The page of a run: one HTML file of all that its workdir holds.

(`training.report` shows a run while it trains, `evaluation.report` one evaluation.)
"""
