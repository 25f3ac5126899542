"""The live page: a small server on this machine that shows runs while they grow.

It reads runs and writes nothing. Words and figures come from the renderers, so that the live page,
the report and the notebook show the same; here is only when, to whom, and who may ask.
"""
