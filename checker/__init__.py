"""The judge: reads a learner's notebook, runs hidden checks against it in a sandbox, and gives a verdict.

Nothing here is ever in a learner's container, and nothing here imports ``gradlab``.
"""
