"""A device, an operator and a cluster as the tests of conformance know them: from outside.

Nothing here uses the product's code: messages are read and written by what the official
compiler made of the published schema, requests are bytes on a socket, and servers are processes
that the user's scripts start.
"""
