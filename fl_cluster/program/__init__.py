"""What a Python program of the cloud side uses, under the names it has always used."""
