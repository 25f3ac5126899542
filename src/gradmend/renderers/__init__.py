"""Views of a report: a Report in, a string out. No torch, no engine, no judgement."""
