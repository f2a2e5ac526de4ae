"""What two programs compute on the way to their outputs, and where they part.

Nothing here knows a model or a list of mistakes: calls are recorded, results are looked up.
"""
