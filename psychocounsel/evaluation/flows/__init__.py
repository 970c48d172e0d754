"""Engine for rubrics with branching questions: our own about a reply, and published ones about whole conversations."""
