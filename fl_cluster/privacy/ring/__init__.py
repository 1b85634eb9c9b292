"""Secure aggregation for new deployments: masks over the integers modulo 2**64.

The terms of exact aggregation are int64, and so are the masks, uniform over the whole ring:
they cancel without a remainder, and the unmasked sum equals the plain sum byte for byte.  After
Bonawitz et al. (2017) with the neighbour graph of Bell et al. (2020).

    offers      each device offers two fresh public keys, signed if it has an identity
    roster      frozen: who is in; the graph follows from it
    sharings    each device seals shares of its mask key and of its seed for its neighbours
    reports     terms + own mask +- the masks of all neighbours that shared, and tags under who did
    survivors   frozen: whose report is in the sum; neighbours confirm the list to each other
    reveals     per neighbour one share: of the mask key if it vanished, of the seed if it survived
                and reported under the same sharers
    unmask      the server rebuilds those and takes the masks off the sum

`device` is one device's side, `server` what any server does with the stored messages.
"""
