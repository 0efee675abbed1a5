"""One address before several clusters, here called cells: requests go on to a cell that has the model.

It knows no model type: of a request it reads the name of the model, and forwards the bytes. It remembers nothing, so
any number of gateways may stand side by side.
"""
