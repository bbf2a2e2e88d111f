"""How long a test waits. Only what fails takes so long; a machine that does other things as well mustn't decide."""

# What must happen at some time: a server that starts, a thread that ends.
PATIENCE = 120.0
# What takes well below a second by itself, as cancelling does. What wasn't cancelled would go on for minutes.
SOON = 10.0
