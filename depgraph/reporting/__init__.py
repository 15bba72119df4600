"""Graphs and plans as a page to look at: one HTML file that asks nothing of anywhere.

`data` gathers what there is to see as plain data, `pages` puts them into the page; nothing here computes anything about a model
that graphs and plans do not say themselves. (The folder isn't called `report`, which is the function's name in the package.)
"""
