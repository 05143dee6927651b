"""From an fx graph to the canonical graph: one operation for each of its spellings."""
