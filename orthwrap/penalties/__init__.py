"""The mathematics: one file a penalty, with its descriptor; `table` is the one list of them.

Nothing here imports Keras, but inside functions that compute on tensors (and in `tensors` and
`activity`, which those functions import). A new penalty is a new file and a line in `table`.
"""
