"""Model families; each reads top to bottom in its own file and imports no sibling."""
