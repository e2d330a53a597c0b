"""Loading and saving through Keras, with orthwrap's classes known and errors of one line."""
