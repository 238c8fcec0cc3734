"""The review: a local web page on which people look at pairs and decide about them."""
