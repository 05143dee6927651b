"""Nets of the literature, structured and named as in torchvision, so that their state dicts are interchangeable.

One architecture per file. Every constructor takes `width`, the channel count of its narrowest stage; the default gives
the published net, a small one a net of the same graph that a test can run in milliseconds.
"""
