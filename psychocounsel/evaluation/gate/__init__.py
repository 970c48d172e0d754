"""Gate: decides whether a model passes, from its safety, sessions and health, and from people's judgement of cases."""
