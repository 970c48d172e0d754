"""One engine for rubrics whose questions lead to questions: ours about a reply, those of others about conversations."""
