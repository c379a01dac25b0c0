"""Readers of part labels in the layouts that the data sets' owners publish, one module a data set."""
