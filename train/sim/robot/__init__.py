"""A Sawyer arm that pushes objects in a tray, in the spirit of BAIR robot pushing (arXiv 1710.05268)."""
