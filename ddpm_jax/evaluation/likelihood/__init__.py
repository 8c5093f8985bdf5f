"""The variational bound of a model over a data set; `python -m` this measures it."""
